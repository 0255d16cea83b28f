"""How edits are made: what a user wishes, what a preset says, and the settings that follow.

Knows nothing of torch, so that a command knows its options before it loads anything.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from memoir_edge.errors import InputError
from memoir_edge.memory import Memory
from memoir_edge.sites import CODED, Config, paths_of, preset
from memoir_edge.tophash import FEATURES


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a user may ask for.

    What is left open is that of the memory to go on from, if there is one, else the architecture's
    (memoir_edge.sites).
    """

    site: str | None = None
    """Module path of the layer to edit, or several separated by commas; default by architecture."""

    k: int | None = None
    """Active features of a mask; default by architecture."""

    feature: str | None = None
    """Routing feature, such as mean or last; default by architecture."""

    threshold: float | None = None
    """Overlap from which an edit answers; default by architecture."""

    steps: int | None = None
    """Most gradient steps of one edit."""

    prefixes: int | None = None
    """Training rows behind texts that the model wrote itself."""

    thinned: int | None = None
    """Training rows that read only part of the mask, for paraphrases' sake."""

    spare: float | None = None
    """How strongly a change avoids what other edits read; 0 is not at all."""

    passes: int | None = None
    """How often the edits are trained, one after the other: a second pass mends what later ones
    have worn down."""

    repairs: int | None = None
    """Rounds in which edits that later ones have worn down are trained again."""

    made_keys: int | None = None
    """Most keys of an edit that are made from its prompt: typed without care, as a chat, behind
    other text."""

    false_fires: float | None = None
    """Share of near misses that may reach an edit: each key gets the threshold for it. 0 keeps one
    threshold for all; so does --threshold."""

    asked: int | None = None
    """Texts of each sort that the check asks of an edit beside its prompt and its record's keys:
    forms of it, further keys, and twice as many near misses. 0 asks its prompt alone."""

    columns_per_edit: int | None = None
    """Columns of the memory for each edit: with fewer it is smaller, and edits wear each other down
    sooner. 0 keeps all edits in as many columns as the site has."""

    batch_edits: int | None = None
    """Edits trained together."""

    parity: bool = False
    """The arithmetic of the paper's released code, quirks included."""

    def after(self, memory: Memory) -> "Wishes":
        """These wishes for going on from a memory, which fixes what they leave open."""
        return replace(
            self,
            site=self.site if self.site is not None else ",".join(memory.sites),
            k=self.k if self.k is not None else memory.k,
            feature=self.feature if self.feature is not None else memory.feature,
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How edits are made. The defaults are the paper's where nothing else is said."""

    site: str  # module path of the edited linear layer; of several the first, where prompts route
    k: int  # active features of a mask
    feature: str  # routing feature, a key of tophash.FEATURES
    threshold: float  # overlap from which an edit answers, where its near misses do not say
    steps: int  # most gradient steps of one edit
    later: tuple[str, ...] = ()  # further layers that each edit changes, in the model's order
    optimiser: str = "sgd"  # a key of OPTIMISERS
    lr: float = 1.0  # of adam: in units of an entry of the site's own output
    clip: float = 1.0  # largest gradient norm of one step; sgd
    momentum: float = 0.0  # of sgd; the paper has none
    stop_loss: float = 0.02  # nats a token; an edit is done at or below it (adam: its worst row)
    prefixes: int = 0  # rows behind texts that the model wrote itself; the paper has 10
    forms: int = 0  # rows that ask the prompt in another form, such as a question
    phrasings: int = 0  # most rows of keys, those of the prompt's relation included
    ends: int = 0  # most rows of statements that end elsewhere, a word earlier or later
    chats: int = 0  # most rows of chats, where the model has a template for them
    thinned: int = 0  # copies of the plain row that read only part of the mask's features
    thinned_forms: int = 0  # the same of every other row
    dropout: float = 0.5  # the part that they do not read
    spare: float = 0.0  # how strongly a change avoids what other edits read; the paper: not at all
    false_fires: float = (
        0.0  # share of near misses that may reach an edit; 0: one threshold for all
    )
    made_keys: int = 0  # most keys of an edit that the tool makes; the paper: none
    passes: int = 1  # over the edits of a run, in order; the paper: one
    repairs: int = 5  # rounds in which edits that later ones have worn down are trained again
    columns_per_edit: int = (
        0  # of Wm, where codes route: edits beyond those get a tile more; 0: one
    )
    asked: int = 0  # texts of each sort that a check asks beside an edit's prompt; the paper: none
    batch_edits: int = 1  # edits trained together
    parity: bool = False  # the released code's arithmetic, quirks included
    eos: bool = True  # train the end of the answer too, so that free generation stops
    seed: int = 0  # of the permutation
    batch: int = 32  # rows of one forward pass outside training

    @property
    def sites(self) -> tuple[str, ...]:
        """Every layer that an edit changes, in the model's order."""
        return (self.site, *self.later)

    def __post_init__(self) -> None:
        """Refuse what no edit could be made with."""
        if self.feature not in FEATURES:
            raise InputError(f"unknown feature {self.feature!r}; known: {', '.join(FEATURES)}")
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold is {self.threshold}, expected above 0 and at most 1")
        if self.optimiser not in OPTIMISERS:
            known = ", ".join(OPTIMISERS)
            raise InputError(f"unknown optimiser {self.optimiser!r}; known: {known}")
        for name in COUNTS:
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if not 0 <= self.false_fires < 1:
            raise InputError(f"false fires are {self.false_fires}, expected from 0 to below 1")
        for name in ("k", "steps", "passes", "batch", "batch_edits"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("momentum", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected from 0 to below 1")
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}, expected above 0")
        if self.later and self.optimiser != "adam":
            # Descent follows what is read by then, so that its change would have no low rank.
            raise InputError(
                f"several sites are trained by adam alone, not {self.optimiser}",
                hint="leave --parity out, or name one --site",
            )
        ours = [name for name in OURS if getattr(self, name)]
        if self.parity and (ours or self.batch_edits > 1 or self.optimiser != "sgd"):
            raise InputError(
                "parity with the released code is plain descent, one edit at a time, without "
                + ", ".join(name.replace("_", " ") for name in OURS)
            )


def settle(config: Config, site: str, D: int, wishes: Wishes, *, coded: bool = False) -> Settings:
    """The settings for a site: the preset's, with the wishes in their place.

    Args:
        config: The model's parsed `config.json`.
        site: Module path of the site, or several separated by commas, in the model's order.
        D: Its input width.
        wishes: What the user asks for; with a threshold for all, no key gets one of its own unless
            that is wished too.
        coded: Prompts are routed by codes; until near misses say otherwise, an edit then answers
            to its own prompt alone.

    Raises:
        InputError: A wish is out of range.

    Example:
        >>> settings = settle({"model_type": "llama"}, "model.layers.6.mlp.down_proj", 768,
        ...                   Wishes(steps=40, threshold=0.7))
        >>> settings.k, settings.steps, settings.threshold, settings.false_fires
        (219, 40, 0.7, 0.0)
    """
    if wishes.k is not None and not 0 < wishes.k <= D:
        raise InputError(f"k is {wishes.k}, expected from 1 to the site's input width {D}")
    first, *later = paths_of(site)
    chosen = preset(config, coded=coded)
    if later and chosen.optimiser != "adam":
        chosen = replace(chosen, **{name: getattr(CODED, name) for name in OF_ADAM})
    feature = chosen.feature if wishes.feature is None else wishes.feature
    values: dict[str, Any] = {name: getattr(chosen, name) for name in TRAINED} | {
        "k": round(chosen.k_share * D),
        "feature": feature,
        "threshold": CODED_THRESHOLD if coded else chosen.threshold.get(feature, 0.65),
    }
    if wishes.parity:
        values |= PARITY
    if wishes.threshold is not None:
        values["false_fires"] = 0.0
    values |= {name: wish for name, wish in asdict(wishes).items() if wish is not None}
    return Settings(**values | {"site": first, "later": tuple(later)})


CODED_THRESHOLD = 0.95
OPTIMISERS = ("sgd", "adam")
# What may be none at all, but not less.
COUNTS = ("prefixes", "forms", "phrasings", "ends", "chats", "thinned", "thinned_forms", "spare",
          "stop_loss", "made_keys", "repairs", "asked", "columns_per_edit")  # fmt: skip
# What a preset says of training.
TRAINED = ("steps", "optimiser", "lr", "momentum", "stop_loss", "prefixes", "forms", "phrasings",
           "ends", "chats", "thinned", "thinned_forms", "spare", "passes", "repairs", "false_fires",
           "made_keys", "asked", "columns_per_edit")  # fmt: skip
# What of that goes with an optimiser.
OF_ADAM = ("optimiser", "lr", "steps", "stop_loss")
# What the paper lacks.
OURS = ("forms", "phrasings", "ends", "chats", "thinned", "thinned_forms", "spare", "momentum",
        "eos")  # fmt: skip
# With --parity none of that is on by default.
PARITY = dict.fromkeys(OURS, 0) | {
    "optimiser": "sgd", "stop_loss": 0.02, "prefixes": 10, "spare": 0.0, "lr": 1.0,
    "momentum": 0.0, "passes": 1, "repairs": 0, "false_fires": 0.0, "made_keys": 0,
    "asked": 0, "eos": False,
}  # fmt: skip
