"""What an editor begins from."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from memoir_edge.editor import BaseModel, Editor, Settings, nothing
from memoir_edge.editor.origin import check_settings
from memoir_edge.errors import MismatchError, SiteError


def test_a_memory_of_nothing_is_the_models(tiny: BaseModel, settings: Settings) -> None:
    made = nothing(tiny, settings)
    assert (made.D, made.d, len(made.bank), made.edits) == (44, 32, 0, ())
    assert sorted(made.permutation.tolist()) == list(range(44))
    assert made.center.any()
    assert (made.scale == 1).all()
    other = nothing(tiny, replace(settings, seed=1, feature="last-scaled"))
    assert (other.permutation != made.permutation).any()
    assert (other.scale != 1).any()


def test_it_is_centred_on_the_prompts_that_are_given(tiny: BaseModel, settings: Settings) -> None:
    alone = nothing(tiny, settings, ["a", "b"]).center
    assert not np.allclose(alone, nothing(tiny, settings).center)


def test_codes_need_no_centre(tiny: BaseModel, settings: Settings, words: Any) -> None:
    made = nothing(tiny, settings, router=words)
    assert made.codes
    assert made.codes.router.digest == words.digest
    assert not made.center.any()


def test_other_settings_are_refused(
    make_editor: Callable[[], Editor], tiny: BaseModel, settings: Settings
) -> None:
    memory = make_editor().memory()
    check_settings(memory, replace(settings, steps=9))
    with pytest.raises(MismatchError, match="feature is last, asked for is mean"):
        check_settings(memory, replace(settings, feature="mean"))
    with pytest.raises(SiteError, match="names nothing"):
        nothing(tiny, replace(settings, site="model.layers.9.mlp.down_proj"))
