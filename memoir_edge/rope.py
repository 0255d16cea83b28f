"""Rotary positions in a `config.json`: what transformers 5 writes, by the names of versions before.

transformers 5 writes all of them under `rope_parameters`. Versions before do not know that key, and
load the model with the angles of its type's defaults, without a word. Needs neither torch nor
transformers.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from memoir_edge.base import language, read_config
from memoir_edge.errors import InputError

COPY = "is the file spoiled? copy the model whole"
# Types that take three keys of a scaling and `type`, and refuse all others.
_STRICT = frozenset({"chameleon", "olmo", "olmo2", "phi3", "phi4_multimodal"})
_FACTORS = ("factor", "short_factor", "long_factor")


class _Names(NamedTuple):
    """Where a theta stands in versions before: of all layers, and of those whose attention slides.

    With one name both are the same number.
    """

    theta: str
    sliding: str


_PLAIN = _Names("rope_theta", "rope_theta")
_BY_LAYER = {
    "gemma3_text": _Names("rope_theta", "rope_local_base_freq"),
    "gemma3n_text": _Names("rope_theta", "rope_local_base_freq"),
    "modernbert-decoder": _Names("global_rope_theta", "local_rope_theta"),
    "olmo3": _PLAIN,
}


def renamed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A language model's configuration without `rope_parameters`: by the names of versions before.

    Raises:
        InputError: What it says of positions is no object.

    >>> renamed({"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}})
    {'rope_theta': 500000.0, 'rope_scaling': {'rope_type': 'linear', 'factor': 2.0}}
    >>> renamed({"rope_theta": 5e5})
    {'rope_theta': 500000.0}
    """
    _check_objects(config, "rope_parameters", "rope_scaling")
    found = {name: value for name, value in config.items() if name != "rope_parameters"}
    given = config.get("rope_parameters") or {}
    _check_objects(given, "full_attention", "sliding_attention")
    if not given:
        return found
    rope, sliding = dict(given.get("full_attention") or given), given.get("sliding_attention") or {}
    type = str(config.get("model_type"))
    names = _BY_LAYER.get(type, _PLAIN)
    thetas = {names.sliding: sliding.get("rope_theta"), names.theta: rope.pop("rope_theta", None)}
    part = rope.pop("partial_rotary_factor", None)
    said = {**thetas, "partial_rotary_factor": part}
    if type.startswith("gpt_neox"):
        said |= {"rotary_pct": part, "rotary_emb_base": thetas["rope_theta"]}
    found |= {name: value for name, value in said.items() if value is not None}
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    strict = type in _STRICT
    if strict:
        rope = {name: rope[name] for name in _FACTORS if name in rope}
    plain = kind == "default" and not rope
    scaling = {"type" if strict else "rope_type": kind} | rope
    return found | {"rope_scaling": None if plain else scaling}


def _check_objects(config: Mapping[str, Any], *names: str) -> None:
    for name in names:
        found = config.get(name)
        if found and not isinstance(found, dict):
            raise InputError(f"config.json has {name} {found!r}, expected an object", hint=COPY)


def even(config: Mapping[str, Any]) -> int | None:
    """Most tokens of a text with the angles of a short one; None if its length does not matter.

    A longrope has factors for short texts and others for long ones. (A dynamic scaling begins
    behind the context, as `memoir_edge.base.context` has it.)

    >>> even({"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096})
    4096
    >>> even({"rope_theta": 5e5}) is None
    True
    """
    said = renamed(config)
    rope = said.get("rope_scaling") or {}
    if "longrope" not in (rope.get("rope_type"), rope.get("type")):
        return None
    name = "original_max_position_embeddings"
    original = said.get(name) or rope.get(name)
    return None if original is None else int(original)


@contextmanager
def as_installed(folder: Path) -> Iterator[Path]:
    """While open, a model folder that the installed transformers reads as it was saved.

    The folder itself, unless transformers 5 saved it and an earlier one is installed: then one of
    links to its files, with a configuration by the earlier names.

    Raises:
        InputError: Its layers have angles of their own, in a way that the installed transformers
            has no names for.
    """
    config = read_config(folder)
    said = language(config)
    if not said.get("rope_parameters") or int(version("transformers").partition(".")[0]) >= 5:
        yield folder
        return
    named = renamed(said)
    _check_names(folder, said)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for file in folder.iterdir():
            if file.name != "config.json":
                (place / file.name).symlink_to(file.resolve())
        whole = named if said is config else {**config, "text_config": named}
        (place / "config.json").write_text(json.dumps(whole), encoding="utf-8")
        yield place


def _check_names(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise InputError where `renamed` would leave out what the layers' angles are."""
    given = config["rope_parameters"].items()
    layers = {name: rope for name, rope in given if isinstance(rope, dict)}
    if not layers:
        return
    full, sliding = layers.pop("full_attention", {}), layers.pop("sliding_attention", {})
    names = _BY_LAYER.get(str(config.get("model_type")))
    theta = sliding.get("rope_theta")
    if (
        not full
        or layers
        or names is None
        or sliding.get("rope_type", "default") != "default"
        or (names == _PLAIN and theta != full.get("rope_theta"))
    ):
        raise InputError(
            f"{folder} has rope_parameters by the kind of layer, which transformers "
            f"{version('transformers')} cannot read of type {config.get('model_type')!r}",
            hint="use transformers>=5, or save the model with the installed version",
        )
