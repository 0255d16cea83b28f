"""Which layer, feature and k tell an edit's prompts from near misses, on the model at hand.

The paper measured its routing on four models; on another one a different layer or feature may be
far better. So this measures: with thresholds set for a stated share of false fires, how many of the
ways to ask for an edit still reach it? The ways are the record's `keys` and those that the tool
makes from the prompt: behind a text that the model wrote itself, as a chat, typed carelessly.
Nothing is trained.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch

from memoir_edge import tophash
from memoir_edge.calibrate import NOBODY, Keys, Misses, thresholds
from memoir_edge.editor.model import BaseModel
from memoir_edge.editor.prompts import own_texts, ways
from memoir_edge.editor.recall import read_at
from memoir_edge.editor.site import find_site
from memoir_edge.edits import Edit
from memoir_edge.errors import InputError, SiteError
from memoir_edge.nearmiss import Miss, misses, subjects, unrelated_prompts
from memoir_edge.router.measure import hindsight
from memoir_edge.sites import layers
from memoir_edge.tophash import FEATURES, SCALED, Ints

SHARES = (1 / 8, 2 / 7, 1 / 2)  # of k / D
OWN_TEXTS = 3


class Trial(NamedTuple):
    """One way to route, measured."""

    site: str
    feature: str
    k: int
    recall: float  # share of the ways to ask that reach their own edit
    nearest: float  # share of them whose own edit has the largest overlap, whatever its threshold
    at_5: float  # share that reaches it by one threshold at which 5 % of the near misses reach any
    at_1: float  # the same at 1 %
    threshold: float  # median of the keys' thresholds


def sites_near(base: BaseModel, site: str, chosen: Sequence[int] | None) -> list[str]:
    """The site's layer in the chosen blocks; by default the site, and that of the upper half."""
    blocks = layers(base.config) or 0
    wanted = chosen if chosen is not None else range(blocks // 2, blocks)
    paths = [re.sub(r"\.\d+\.", f".{layer}.", site, count=1) for layer in wanted]
    found = []
    for path in dict.fromkeys([site, *paths] if chosen is None else paths):
        try:
            find_site(base.net, path)
        except SiteError:
            if chosen is not None:
                raise
            continue
        found.append(path)
    return found


def trials(
    base: BaseModel,
    edits: Sequence[Edit],
    sites: Sequence[str],
    *,
    bound: float,
    features: Sequence[str] = tuple(FEATURES),
    shares: Sequence[float] = SHARES,
    unrelated: Sequence[str] | None = None,
    near: Sequence[Miss] = (),
    on_site: Callable[[str], None] = lambda site: None,
) -> list[Trial]:
    """Measure every site with every feature and k.

    Args:
        base: The model.
        edits: What is to be edited; nothing is trained, and no evaluation field is read.
        sites: Layers.
        bound: Share of near misses that may reach an edit.
        features: Keys of `tophash.FEATURES`.
        shares: Of k / D.
        unrelated: Prompts to centre on; default `unrelated_prompts()`.
        near: Near misses beside those that the edits give.
        on_site: Told of every site when it is done.

    Returns:
        One trial for each combination, the highest recall first.

    Raises:
        InputError: Too few near misses can be made from the edits to measure that bound.
    """
    asked = _Asked.of(base, edits, list(unrelated or unrelated_prompts()), near)
    found: list[Trial] = []
    for site in sites:
        every = _features(base, site, asked.texts, features)
        for feature in features:
            D = every[feature].shape[1]
            for k in sorted({max(round(share * D), 1) for share in shares}):
                found.append(_trial(asked, site, feature, k, every[feature], bound))
        on_site(site)
    return sorted(found, key=lambda trial: -trial.recall)


@dataclass(frozen=True)
class _Asked:
    """All that is asked: the edits' prompts, other ways to ask, near misses, unrelated prompts."""

    texts: list[str]
    ends: tuple[int, int, int]  # where the second, third and fourth part begin
    own: Ints  # [ways] number of the edit that each way asks for
    about: Ints  # [edits] number of each edit's subject
    near: list[Miss]

    @classmethod
    def of(
        cls, base: BaseModel, edits: Sequence[Edit], strays: Sequence[str], further: Sequence[Miss]
    ) -> "_Asked":
        before = own_texts(base, OWN_TEXTS)
        asked = [
            (i, text)
            for i, edit in enumerate(edits)
            for text in dict.fromkeys([*edit.keys, *ways(base, edit.prompt, before)])
        ]
        near = [*misses(edits), *further]
        parts = [[e.prompt for e in edits], [t for _, t in asked], [m.text for m in near]]
        first, second, third = accumulate(map(len, parts))
        return cls(
            [text for part in (*parts, strays) for text in part],
            (first, second, third),
            np.array([i for i, _ in asked]),
            np.array(subjects(edits)),
            near,
        )


def _trial(
    asked: _Asked, site: str, feature: str, k: int, f: tophash.Floats, bound: float
) -> Trial:
    """One way to route, with thresholds for the bound; f `[texts, D]` are the texts' features."""
    plain = f[asked.ends[2] :]
    D = f.shape[1]
    scale = tophash.scale(plain) if feature in SCALED else np.ones(D, np.float32)
    masks = tophash.pack(tophash.mask(f, plain.mean(axis=0), scale, np.arange(D), k))
    bank, way, missing, stray = np.split(masks, asked.ends)
    of = np.array([m.edit for m in asked.near]), np.array([m.subject for m in asked.near])
    keys = Keys(bank, np.arange(len(bank)), asked.about)
    limits = thresholds(keys, k, Misses(missing, *of), stray, bound)
    if limits is None:
        raise InputError(
            f"{len(asked.near)} near misses can be made from these edits, too few to "
            f"measure false fires of {bound:g}",
            hint="more edits, records that name their subject, or a larger bound",
        )
    R = np.concatenate([tophash.overlap(mask[None], bank, k) for mask in way])
    best = R.argmax(axis=1)
    right = best == asked.own
    reached = right & (R.max(axis=1) >= limits[best])
    fired = tophash.overlap(missing[of[0] == NOBODY], bank, k).max(axis=1)
    at_5, at_1 = (hindsight(right, R.max(axis=1), fired, share) for share in (0.05, 0.01))
    return Trial(
        site, feature, k, float(reached.mean()), float(right.mean()), at_5, at_1,
        float(np.median(limits)),
    )  # fmt: skip


@torch.no_grad()
def _features(
    base: BaseModel, site: str, texts: Sequence[str], names: Sequence[str], size: int = 32
) -> dict[str, tophash.Floats]:
    """Each feature of each text, `[len(texts), D]`, from one pass up to the site."""
    order = sorted(range(len(texts)), key=lambda i: len(base.encode(texts[i])))
    module = find_site(base.net, site)
    made: dict[str, list[tophash.Floats]] = {name: [] for name in names}
    for start in range(0, len(order), size):
        a, counts = read_at(module, base, [texts[i] for i in order[start : start + size]])
        for name in names:
            made[name].append(tophash.feature(a, tophash.span(name, counts)))
    back = np.argsort(order)
    return {name: np.concatenate(parts)[back] for name, parts in made.items()}
