"""Thresholds from near misses, by what then reaches an edit."""

from dataclasses import replace

import numpy as np
import pytest

from memoir_edge.demo.edits import sample
from memoir_edge.editor import BaseModel, Editor, Wishes, choose


@pytest.mark.parametrize(
    ("told", "bar"), [(0, 0.98), (3, 0.995)], ids=["alone", "with three paraphrases"]
)
def test_edits_are_reached_by_their_paraphrases_and_not_by_near_misses(
    demo: BaseModel, told: int, bar: float
) -> None:
    """The routing at 150 edits and 1 % of false fires, with thresholds from near misses alone."""
    site = "model.layers.6.mlp.down_proj"
    editor = Editor(demo, choose(demo, Wishes(site=site)))
    edits = sample(150)
    bank = editor.live.bank
    for edit in edits:
        keyed = replace(edit, keys=edit.rephrase[:told])
        primary, *further = editor.masks([edit.prompt, *keyed.keys])
        bank.add(edit.id, keyed.record(), primary, further, [], editor.settings.threshold)
    assert editor.calibrate() is not None
    asked = [(edit.id, text) for edit in edits for text in edit.rephrase[told:]]
    route = editor.model.routes([text for _, text in asked]).route
    right = [r > 0 and bank.keys[r - 1].edit == id for r, (id, _) in zip(route, asked, strict=True)]
    assert np.mean(right) >= bar
    near = list(dict.fromkeys(text for edit in edits for text in edit.hard_negatives))
    assert (editor.model.routes(near).route > 0).mean() <= 0.01
