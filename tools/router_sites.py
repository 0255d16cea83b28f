"""What a language model's own activations reach: part `sites` of tools/bench_router.py.

It needs torch and SmolLM2, and knows nothing of encoders: an edit's key is what the model makes of
its prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from router_looks import Row, bare, measure
from router_worlds import World, unrelated

from memoir_edge import tophash
from memoir_edge.demo.models import path as model_path
from memoir_edge.editor import load, quiet
from memoir_edge.sites import default_site
from memoir_edge.tophash import Floats


def by_activations(world: World) -> list[Row]:
    """What the language model's own activations reach: SmolLM2's, at the default site.

    The input of the site as the paper hashes it, by mean and by last token; and the state of the
    last token behind the block compared by Euclidean distance, as GRACE does.
    """
    quiet()
    base = load(str(model_path("smollm2")), device="cpu")
    prompts = [e.prompt for e in world.edits]
    texts = [*prompts, *(t for _, t in world.asked), *(t for s in world.hard.values() for t in s)]
    far = unrelated(200)
    read_ = dict(zip([*texts, *far], activations(base, [*texts, *far]), strict=True))
    rows = []
    for name in ("mean", "last"):
        center = np.mean([getattr(read_[text], name) for text in far], axis=0)
        D = len(center)
        k = round(2 / 7 * D)

        def masks(texts: Sequence[str], name: str = name, center: Floats = center) -> Floats:
            f = np.array([getattr(read_[text], name) for text in texts], np.float32)
            order = np.arange(D)  # noqa: B023 # D is the same for both
            bits = tophash.mask(f, center, np.ones_like(center), order, k)  # noqa: B023
            return bits.astype(np.float32)

        look = bare(prompts, range(len(prompts)), masks, lambda a, b, k=k: a @ b.T / k)
        rows.append({"router": f"site's input, {name}", **measure(world, look, own=False)})
    states = lambda texts: np.array([read_[text].state for text in texts])  # noqa: E731
    near = lambda a, b: -np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))  # noqa: E731
    grace = bare(prompts, range(len(prompts)), states, near)
    rows.append({"router": "last token's state, distance", **measure(world, grace, own=False)})
    return rows


@dataclass
class Activations:
    """Of one text at the site."""

    mean: Floats
    last: Floats
    state: Floats  # behind the block, last token


def activations(base: Any, texts: Sequence[str]) -> list[Activations]:
    """One text at a time, so that no padding is read."""
    site = base.net.get_submodule(default_site(base.config))
    block = base.net.get_submodule(default_site(base.config).removesuffix(".mlp.down_proj"))
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        site.register_forward_pre_hook(lambda _, given: seen.update(site=given[0][0])),
        block.register_forward_hook(
            lambda _, given, out: seen.update(block=(out[0] if isinstance(out, tuple) else out)[0])
        ),
    ]
    made = []
    with torch.no_grad():
        for text in texts:
            base.net.model(torch.tensor([base.encode(text)]))
            a = seen["site"].numpy()
            made.append(Activations(a.mean(axis=0), a[-1], seen["block"][-1].numpy()))
    for hook in hooks:
        hook.remove()
    return made
