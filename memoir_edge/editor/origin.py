"""What an editor begins from: a memory without edits, or one that its settings fit."""

from collections.abc import Sequence

import numpy as np

from memoir_edge import __version__, tophash
from memoir_edge.editor.model import BaseModel
from memoir_edge.editor.recall import Edited
from memoir_edge.editor.site import find_sites, width
from memoir_edge.errors import MismatchError
from memoir_edge.memory import Base, Memory, no_codes
from memoir_edge.nearmiss import unrelated_prompts
from memoir_edge.router import Router, identity
from memoir_edge.settings import Settings
from memoir_edge.tophash import SCALED


def nothing(
    base: BaseModel,
    settings: Settings,
    unrelated: Sequence[str] | None = None,
    router: Router | None = None,
) -> Memory:
    """A memory without edits: its permutation drawn, its routing feature centred.

    Args:
        base: The model.
        settings: Sites, k, feature and seed.
        unrelated: Prompts to centre on; default `unrelated_prompts()`.
        router: What its prompts will be routed by, instead of the first site's activations,
            which then need no centre.

    Raises:
        SiteError: The model has no such site, or several do not go together.
    """
    sites = find_sites(base.net, settings.sites)
    D, d = width(sites[0])
    center, scale = np.zeros(D, np.float32), np.ones(D, np.float32)
    if router is None:
        asked = unrelated or unrelated_prompts()
        f = Edited(base, sites[0], None, settings.batch).features(asked, settings.feature)
        center = f.mean(axis=0)
        scale = tophash.scale(f) if settings.feature in SCALED else scale
    return Memory(
        site=settings.site,
        later=settings.later,
        feature=settings.feature,
        k=settings.k,
        base=Base(base.id, base.digest, base.former),
        columns=np.zeros(0, np.int32),
        values=np.zeros((0, d), np.float32),
        bank=np.zeros((0, -(-D // 8)), np.uint8),
        owner=np.zeros(0, np.int32),
        thresholds=np.zeros(0, np.float32),
        center=center,
        scale=scale,
        permutation=np.random.default_rng(settings.seed).permutation(D).astype(np.int32),
        edits=(),
        codes=no_codes(identity(router)) if router else None,
        tool=f"memoir-edge {__version__}",
    )


def check_settings(memory: Memory, settings: Settings) -> None:
    """Raise MismatchError unless a memory can be gone on from with these settings."""
    pairs = {
        "site": (",".join(memory.sites), ",".join(settings.sites)),
        "k": (memory.k, settings.k),
        "feature": (memory.feature, settings.feature),
    }
    for name, (has, wants) in pairs.items():
        if has != wants:
            raise MismatchError(
                f"the memory's {name} is {has}, asked for is {wants}",
                hint=f"leave --{name} out to go on with the memory's, or write to a new file",
            )
