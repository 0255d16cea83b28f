"""Where and how to edit a model when the user does not say, as tables.

Knows a model by its parsed `config.json` and its layers' paths alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from memoir_edge.errors import SiteError

Config = Mapping[str, Any]

# What configurations call the number of decoder layers, of heads, and the width between blocks.
LAYERS = ("num_decoder_layers", "num_hidden_layers", "n_layer", "n_layers", "num_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_WIDTH = ("hidden_size", "n_embd", "d_model")

# The down-projection of each architecture's feed-forward block, by `model_type`.
SITES: dict[str, str] = {
    "gemma": "model.layers.{layer}.mlp.down_proj",
    "gemma2": "model.layers.{layer}.mlp.down_proj",
    "gemma3_text": "model.layers.{layer}.mlp.down_proj",
    "gpt2": "transformer.h.{layer}.mlp.c_proj",
    "gpt_neox": "gpt_neox.layers.{layer}.mlp.dense_4h_to_h",
    "gptj": "transformer.h.{layer}.mlp.fc_out",
    "llama": "model.layers.{layer}.mlp.down_proj",
    "mistral": "model.layers.{layer}.mlp.down_proj",
    "mt5": "decoder.block.{layer}.layer.2.DenseReluDense.wo",
    "opt": "model.decoder.layers.{layer}.fc2",
    "phi3": "model.layers.{layer}.mlp.down_proj",
    "qwen2": "model.layers.{layer}.mlp.down_proj",
    "qwen3": "model.layers.{layer}.mlp.down_proj",
    "t5": "decoder.block.{layer}.layer.2.DenseReluDense.wo",
}


@dataclass(frozen=True)
class Preset:
    """Settings for one model, or the first guess for any."""

    feature: str  # routing feature
    threshold: dict[str, float]  # overlap from which a key answers, by routing feature
    k_share: float = 2 / 7  # k / D
    depth: float = 0.85  # share of the blocks that lie below the site
    optimiser: str = "sgd"
    steps: int = 200  # most of one edit
    lr: float = 0.5  # of adam: in units of an entry of the site's own output
    momentum: float = 0.9  # of sgd
    stop_loss: float = 0.02  # nats a token; of adam: of the worst row
    prefixes: int = 0  # training rows behind texts that the model wrote itself
    forms: int = 0  # that ask the prompt in another form
    phrasings: int = 8  # of keys, the record's own and those of the prompt's relation
    ends: int = 0  # of statements that end a word earlier or later
    chats: int = 0  # of chats
    thinned: int = 5  # copies of the plain row that read only part of the mask
    thinned_forms: int = 0  # the same of every other row
    spare: float = 10.0  # how strongly a change avoids what other edits read
    passes: int = 2  # how often all edits of a run are trained
    repairs: int = 5  # rounds in which worn edits are trained again
    made_keys: int = 4  # most further keys of an edit that the tool makes
    false_fires: float = 0.01  # share of near misses that may reach an edit
    columns_per_edit: int = 0  # of Wm, where codes route; 0: one tile for all
    asked: int = 2  # texts of each sort that a check asks of an edit
    layer: int | None = None  # number of the site's block, where it is known


def _paper(layer: int, k: int, D: int, tau: float, steps: int) -> Preset:
    return Preset(
        "mean",
        {"mean": tau, "last": 0.6},
        k / D,
        layer=layer,
        steps=steps,
        lr=1.0,
        momentum=0.0,
        prefixes=10,
        phrasings=0,
        thinned=0,
        spare=0.0,
        passes=1,
        made_keys=0,
        asked=0,
        false_fires=0.0,
    )


# The paper's models (table 5 of arXiv 2506.07899), by type, width of the site and number of layers.
PAPER: dict[tuple[str, int, int], Preset] = {
    ("llama", 14336, 32): _paper(layer=27, k=4096, D=14336, tau=0.40, steps=30),
    ("mistral", 14336, 32): _paper(layer=27, k=4096, D=14336, tau=0.40, steps=70),
    ("llama", 11008, 32): _paper(layer=27, k=4096, D=11008, tau=0.46, steps=70),
    ("gptj", 16384, 28): _paper(layer=21, k=4096, D=16384, tau=0.45, steps=70),
}
# In other models the state at the last token tells prompts apart far better than the mean over all
# tokens does: docs/routing.md has the measurement.
DEFAULT = Preset("last", {"mean": 0.75, "last": 0.58})
# Where a router's codes say which edit a prompt reaches, all ways to ask reach it, and the site
# need not tell prompts apart. So edits are trained in the forms in which people ask, at the last
# block, which carries an answer to other phrasings best (docs/editor.md).
CODED = replace(
    DEFAULT,
    depth=1.0,
    k_share=1 / 8,
    optimiser="adam",
    steps=60,
    lr=0.15,
    stop_loss=0.05,
    forms=4,
    ends=6,
    chats=3,
    thinned=4,
    thinned_forms=1,
    columns_per_edit=30,
)


def _get(config: Config, *names: str) -> int | None:
    """The first that is a number: some models give each layer a width of its own, in a list."""
    found = (config.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and value), None)


def layers(config: Config) -> int | None:
    """Number of decoder layers, whatever the architecture calls it."""
    return _get(config, *LAYERS)


def heads(config: Config) -> int | None:
    """Number of attention heads, whatever the architecture calls it."""
    return _get(config, *HEADS)


def width(config: Config) -> int | None:
    """Width of a hidden state, whatever the architecture calls it."""
    return _get(config, *_WIDTH)


def head_size(config: Config) -> int | None:
    """Width of an attention head, whatever the architecture calls what it follows from.

    >>> head_size({"n_embd": 768, "n_head": 12}), head_size({"n_embd": 768})
    (64, None)
    """
    count, whole = heads(config), width(config)
    return _get(config, "head_dim") or (whole // count if count and whole else None)


def preset(config: Config, *, coded: bool = False) -> Preset:
    """The settings of a known model, or the default; `coded` where a router's codes decide."""
    if coded:
        return CODED
    inner = _get(config, "intermediate_size", "n_inner", "ffn_dim") or 4 * (width(config) or 0)
    return PAPER.get((str(config.get("model_type")), inner, layers(config) or 0), DEFAULT)


def default_site(config: Config, *, coded: bool = False) -> str:
    """Module path of the layer to edit: the down-projection at 85 % of the depth.

    Where a router's codes decide which edit a prompt reaches, `coded`, it is the last block's.

    Raises:
        SiteError: The architecture is not in `SITES`, or its depth is unknown.
    """
    kind, depth = str(config.get("model_type")), layers(config)
    if kind not in SITES or not depth:
        raise SiteError(
            f"no default site for model type {kind!r}; known: {', '.join(SITES)}",
            hint="name the down-projection to edit with --site, e.g. model.layers.27.mlp.down_proj",
        )
    chosen = preset(config, coded=coded)
    layer = chosen.layer if chosen.layer is not None else at_depth(chosen.depth, depth)
    return SITES[kind].format(layer=layer)


def paths_of(site: str) -> list[str]:
    """The module paths in what a user gave as site.

    Raises:
        SiteError: One is empty.

    >>> paths_of("layers.5.mlp.down_proj, layers.6.mlp.down_proj")
    ['layers.5.mlp.down_proj', 'layers.6.mlp.down_proj']
    """
    paths = [path.strip() for path in site.split(",")]
    if not all(paths):
        raise SiteError(
            f"site {site!r} holds an empty path",
            hint="give module paths, separated by commas: --site PATH,PATH",
        )
    return paths


def at_depth(share: float, blocks: int) -> int:
    """The block with about this share of all below it; the last one for all of them.

    >>> at_depth(0.85, 30), at_depth(1.0, 30)
    (25, 29)
    """
    return min(int(share * blocks), blocks - 1)


def folded(paths: Iterable[str]) -> list[str]:
    """Layers' paths for a message: those that differ in their numbers alone as one.

    >>> folded(["layers.0.mlp.up", "layers.0.experts.0", "layers.1.experts.1", "head"])
    ['layers.0.mlp.up', 'layers.{0..1}.experts.{0..1}', 'head']
    """
    alike: dict[tuple[str, ...], list[list[str]]] = {}
    for path in paths:
        parts = path.split(".")
        shape = tuple("" if part.isdecimal() else part for part in parts)
        alike.setdefault(shape, []).append(parts)
    return [".".join(map(_span, zip(*found, strict=True))) for found in alike.values()]


def _span(parts: Sequence[str]) -> str:
    """Parts at one place of alike paths: all the same, or numbers."""
    if len(set(parts)) == 1:
        return parts[0]
    numbers = [int(part) for part in parts]
    return f"{{{min(numbers)}..{max(numbers)}}}"


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for a message, the first ones where there are many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
