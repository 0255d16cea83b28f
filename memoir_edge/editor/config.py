"""Settings of the editor: one dataclass, made once at the edge and passed down."""

from dataclasses import dataclass, replace

from memoir_edge.errors import InputError
from memoir_edge.sites import Config, preset
from memoir_edge.tophash import FEATURES


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How edits are made. The defaults are the paper's where nothing else is said."""

    site: str  # module path of the edited linear layer
    k: int  # active features of a mask
    feature: str  # routing feature, a key of tophash.FEATURES
    threshold: float  # overlap from which an edit answers, where its near misses do not say
    steps: int  # most gradient steps of one edit
    lr: float = 1.0
    clip: float = 1.0  # largest gradient norm of one step
    momentum: float = 0.0  # of the descent; the paper has none
    stop_loss: float = 0.02  # nats a token; an edit is done at or below it
    prefixes: int = 0  # rows behind texts that the model wrote itself; the paper has 10
    thinned: int = 0  # copies of the plain row that read only part of the mask's features
    dropout: float = 0.5  # that part they do not read
    spare: float = 0.0  # how strongly a change avoids what other edits read; the paper: not at all
    false_fires: float = (
        0.0  # share of near misses that may reach an edit; 0: one threshold for all
    )
    made_keys: int = 0  # most keys of an edit that the tool makes (ways.py); the paper: none
    passes: int = 1  # over the edits of a run, in order; the paper: one
    repairs: int = 5  # rounds in which edits that later ones have worn down are trained again
    batch_edits: int = 1  # edits trained together
    parity: bool = False  # the released code's arithmetic, quirks included
    eos: bool = True  # train the end of the answer too, so that free generation stops
    seed: int = 0  # of the permutation
    batch: int = 32  # rows of one forward pass outside training

    def __post_init__(self) -> None:
        """Refuse what no edit could be made with."""
        if self.feature not in FEATURES:
            raise InputError(f"unknown feature {self.feature!r}; known: {', '.join(FEATURES)}")
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold is {self.threshold}, expected above 0 and at most 1")
        for name in ("prefixes", "thinned", "spare", "made_keys", "repairs"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if not 0 <= self.false_fires < 1:
            raise InputError(f"false fires are {self.false_fires}, expected from 0 to below 1")
        for name in ("k", "steps", "passes", "batch", "batch_edits"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least 1")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum is {self.momentum}, expected from 0 to below 1")
        ours = (self.thinned, self.spare, self.momentum, self.eos, self.batch_edits > 1)
        if self.parity and any(ours):
            raise InputError(
                "parity with the released code is one edit at a time, without thinned rows, "
                "sparing, momentum or an end-of-text token"
            )


def choose(
    config: Config,
    D: int,
    *,
    site: str,
    k: int | None = None,
    feature: str | None = None,
    threshold: float | None = None,
    steps: int | None = None,
    prefixes: int | None = None,
    thinned: int | None = None,
    spare: float | None = None,
    passes: int | None = None,
    repairs: int | None = None,
    false_fires: float | None = None,
    made_keys: int | None = None,
    batch_edits: int = 1,
    parity: bool = False,
) -> Settings:
    """Fill what the user left open from the architecture's preset.

    Args:
        config: The model's parsed `config.json`.
        D: Input width of the site.
        site: Module path of the site.
        k: Active features; default the preset's share of D.
        feature: Routing feature.
        threshold: Overlap from which an edit answers.
        steps: Most gradient steps of one edit.
        prefixes: Rows behind the model's own texts.
        thinned: Rows that read only part of the mask.
        spare: How strongly a change avoids what other edits read.
        passes: Passes over the edits of a run.
        repairs: Rounds of training worn edits again.
        false_fires: Share of near misses that may reach an edit; default the preset's, 0 where a
            threshold is given.
        made_keys: Most keys of an edit that the tool makes.
        batch_edits: Edits trained together.
        parity: The released code's arithmetic; then nothing that the paper lacks is on by default.

    Raises:
        InputError: A value is out of range.
    """
    chosen = preset(config)
    if parity:
        chosen = replace(
            chosen, prefixes=10, thinned=0, spare=0.0, lr=1.0, momentum=0.0, passes=1,
            repairs=0, false_fires=0.0, made_keys=0,
        )  # fmt: skip
    if false_fires is None:
        false_fires = chosen.false_fires if threshold is None else 0.0
    feature = feature or chosen.feature
    if k is not None and not 0 < k <= D:
        raise InputError(f"k is {k}, expected from 1 to the site's input width {D}")
    return Settings(
        site=site,
        k=k or round(chosen.k_share * D),
        feature=feature,
        threshold=threshold if threshold is not None else chosen.threshold.get(feature, 0.65),
        steps=steps or chosen.steps,
        prefixes=chosen.prefixes if prefixes is None else prefixes,
        thinned=chosen.thinned if thinned is None else thinned,
        spare=chosen.spare if spare is None else spare,
        lr=chosen.lr,
        momentum=chosen.momentum,
        passes=chosen.passes if passes is None else passes,
        repairs=chosen.repairs if repairs is None else repairs,
        false_fires=false_fires,
        made_keys=chosen.made_keys if made_keys is None else made_keys,
        batch_edits=batch_edits,
        parity=parity,
        eos=not parity,
    )
