"""Masks that a graph makes, against the activations in torch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from memoir_edge import tophash
from memoir_edge.errors import InputError, MismatchError
from memoir_edge.memory import Base
from memoir_edge_runtime import Masks, Session


def test_a_graph_makes_the_masks_that_it_routes_by(
    export_dir: Path, session: Session, make_memory, prompts
) -> None:
    memory = make_memory(prompts[:6])
    masks = Masks(export_dir, memory, threads=1)
    found = np.stack([masks.of(prompt) for prompt in prompts])
    bank, k = memory.bank, memory.k
    for routing, overlap in zip(
        session.route(prompts, memory=session.load(memory)),
        tophash.overlap(found, bank, k).max(axis=1),
        strict=True,
    ):
        assert routing.overlap == overlap


@pytest.mark.parametrize("feature", ["mean", "last", "later-half"])
def test_a_mask_is_of_the_tokens_that_the_memory_counts(
    export_dir: Path, session: Session, make_memory, prompts, oracle, feature: str
) -> None:
    memory = replace(make_memory(prompts[:2]), feature=feature)
    prompt = f"{prompts[0]} "  # the space at its end does not count
    row, seen = session.prompt(prompt).row, []
    handle = oracle.site.register_forward_hook(lambda _, args, out: seen.append(args[0]))
    with torch.no_grad():
        oracle.net(torch.tensor([row.ids]))
    handle.remove()
    counted = np.zeros((1, len(row.ids)), np.int64)
    counted[0, row.counted] = 1
    f = tophash.feature(seen[0].numpy(), tophash.span(feature, counted))
    wanted = tophash.mask(f, memory.center, memory.scale, memory.permutation, memory.k)
    np.testing.assert_array_equal(
        tophash.unpack(Masks(export_dir, memory).of(prompt), memory.D), wanted[0]
    )


def test_a_memory_of_another_model_is_refused(export_dir: Path, make_memory, prompts) -> None:
    other = replace(make_memory(prompts[:2]), base=Base("other", "0" * 64))
    with pytest.raises(MismatchError):
        Masks(export_dir, other)


def test_a_prompt_beyond_the_context_is_refused_in_words(
    export_dir: Path, session: Session, make_memory, prompts
) -> None:
    masks, most = Masks(export_dir, make_memory(prompts[:2])), session.language.context
    text = " ".join([prompts[0]] * most)
    length = len(session.language.tokenizer.prompt(text).ids)
    said = f"the prompt is {length} tokens long; this model's maximum context length is {most}"
    with pytest.raises(InputError, match=said):
        masks.of(text)
