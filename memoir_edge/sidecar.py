"""`memoir_edge.json`, the file that stands beside an exported graph and says what its ports fit.

{"D": 768, "d": 192, "digest": "9f2c…", "dtype": "fp32", "exporter": "memoir-edge-exporter 0.1.0",
 "feature": "mean", "format": 1, "model_id": "demo", "ports": 1,
 "router": {"bits": 1024, "digest": "53aa…", "kind": "encoder", "max_tokens": 256, "weight": 512},
 "site": "model.layers.6.mlp.down_proj"}

Where they are not the usual ones, also: "sites" (all, in the graph's order), "former" (earlier
digests), "padding_side" ("right") and "kind" (of the ports: "required", "recurrent", "cache").
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from memoir_edge import memory as memories
from memoir_edge.errors import GraphError, MismatchError
from memoir_edge.memory import ROUTERS, Memory
from memoir_edge.ports import KINDS, Kind

NAME = "memoir_edge.json"
FORMAT = 1  # of this file
PORTS = 1  # of the graph's ports and ops: docs/ports.md
SITED = 2  # the same, of a graph with several sites: an earlier reader would feed it other tiles


@dataclass(frozen=True)
class Router:
    """The router that stands beside a graph, in the folder `router`."""

    kind: str
    digest: str
    bits: int  # P
    weight: int  # ones of a code
    max_tokens: int  # that it reads; of a longer prompt the last ones

    @property
    def codes(self) -> memories.Router:
        """What a memory with codes of this router says of it."""
        return memories.Router(self.kind, self.digest, self.bits, self.weight)


@dataclass(frozen=True)
class Sidecar:
    """What an exported graph is.

    `site` is the first of its sites, where Route is; `later` are the others, in the graph's order.
    `feature` is the routing feature that the graph forms by itself when `memory.span` is not fed;
    D and d are the input and output width of each site.
    """

    site: str
    D: int
    d: int
    feature: str
    dtype: str
    model_id: str
    digest: str | None  # of the base model (memoir_edge.identity)
    exporter: str
    router: Router | None = None
    former: tuple[str, ...] = ()  # what earlier versions called that digest
    padding_side: str = "left"  # of shorter rows: "right" where attention takes lengths by the mask
    kind: Kind = "optional"  # of its ports (memoir_edge.ports)
    later: tuple[str, ...] = ()
    format: int = FORMAT

    @property
    def sites(self) -> tuple[str, ...]:
        """All of them."""
        return (self.site, *self.later)

    @property
    def ports(self) -> int:
        """Version of the ports."""
        return SITED if self.later else PORTS


def write(folder: Path, sidecar: Sidecar) -> None:
    """Write the file into an export directory."""
    said = asdict(sidecar) | {"ports": sidecar.ports, "sites": sidecar.sites}
    del said["later"]
    usual = _USUAL | {"sites": (sidecar.site,)}
    document = {name: v for name, v in said.items() if name not in usual or v != usual[name]}
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    (folder / NAME).write_text(text, encoding="utf-8")


def read(folder: Path) -> Sidecar:
    """Read and check the file of an export directory.

    Raises:
        GraphError: It is missing, malformed, or of a version that this tool does not know.
    """
    again = f"make one: memoir-edge export --model MODEL --out {folder}"
    path = folder / NAME
    if not path.is_file():
        raise GraphError(f"{folder} is no export of memoir-edge: it holds no {NAME}", hint=again)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise GraphError(f"{path} cannot be read: {error}", hint=again) from error
    if not isinstance(raw, dict):
        raise GraphError(f"{path} holds {type(raw).__name__}, expected an object", hint=again)
    _check_version(path, raw)
    for name, good in _CHECKS.items():
        if not good(raw.get(name)):
            raise GraphError(f"{path} has {name} = {str(raw.get(name))[:80]!r}", hint=again)
    raw["router"] = None if raw.get("router") is None else _router(path, raw["router"], again)
    raw["former"] = tuple(raw.get("former") or ())
    raw.setdefault("padding_side", "left")
    raw["kind"] = raw.get("kind") or "optional"
    first, *later = raw.get("sites") or [raw["site"]]
    if first != raw["site"] or bool(later) != (raw["ports"] == SITED):
        raise GraphError(f"{path} has sites that its site and ports do not fit", hint=again)
    raw["later"] = tuple(later)
    return Sidecar(**{field.name: raw[field.name] for field in fields(Sidecar)})


def _router(path: Path, raw: object, again: str) -> Router:
    if not isinstance(raw, dict):
        raise GraphError(f"{path} has router = {str(raw)[:80]!r}, expected an object", hint=again)
    for name, good in _ROUTER_CHECKS.items():
        if not good(raw.get(name)):
            found = str(raw.get(name))[:80]
            raise GraphError(f"{path} has router.{name} = {found!r}", hint=again)
    return Router(**{field.name: raw[field.name] for field in fields(Router)})


def _check_version(path: Path, raw: dict[str, Any]) -> None:
    """Checked before anything else, because another version may have other fields."""
    found = raw.get("format"), raw.get("ports")
    if found not in ((FORMAT, PORTS), (FORMAT, SITED)) or not all(map(_is_size, found)):
        raise GraphError(
            f"{path} says format {found[0]!r} and ports {found[1]!r}, this version knows "
            f"format {FORMAT} and ports {PORTS} and {SITED}",
            hint="update memoir-edge, or export again",
        )


def check_fit(memory: Memory, graph: Sidecar) -> None:
    """Check that a memory was made for the sites, the widths and the base model of a graph.

    A memory with codes also needs the very router that made them.

    Raises:
        MismatchError: It was not; the message names both sides.
    """
    if memory.sites != graph.sites:
        router = " --encoder ENCODER" if memory.codes is not None and graph.router is None else ""
        raise MismatchError(
            f"the memory's {named_sites(memory.sites)}, the graph's {named_sites(graph.sites)}",
            hint=f"export the model with --site {','.join(memory.sites)}{router}, or use a memory "
            f"that was made with --site {','.join(graph.sites)}",
        )
    pairs = {
        "D, d": ((memory.D, memory.d), (graph.D, graph.d)),
        "base model": (
            _base(memory.base.model_id, memory.base.digest),
            _base(graph.model_id, graph.digest),
        ),
    }
    if memory.base.is_of(graph.digest, graph.former):
        del pairs["base model"]  # the same weights may go by two names
    for name, (found, expected) in pairs.items():
        if found != expected:
            raise MismatchError(
                f"the memory's {name} is {found}, the graph's is {expected}",
                hint="use the memory made for this model, or export the model it was made for",
            )
    if memory.codes is not None:
        _check_router(memory.codes.router, graph.router)


def named_sites(sites: Sequence[str]) -> str:
    """Sites for a message.

    >>> named_sites(["layers.6.down"]), named_sites(["layers.5.down", "layers.6.down"])
    ('site is layers.6.down', 'sites are layers.5.down and layers.6.down')
    """
    return f"site is {sites[0]}" if len(sites) == 1 else f"sites are {' and '.join(sites)}"


def _check_router(wanted: memories.Router, found: Router | None) -> None:
    if found is None:
        raise MismatchError(
            f"the memory is routed by {_named(wanted)}, the export has no router",
            hint="export the model again with the encoder of the memory: --encoder ENCODER",
        )
    if found.codes != wanted:
        raise MismatchError(
            f"the memory is routed by {_named(wanted)}, the export's router is "
            f"{_named(found.codes)}",
            hint="export the model again with the encoder of the memory: --encoder ENCODER",
        )


def _named(router: memories.Router) -> str:
    return f"{router.kind} {router.digest[:16]} ({router.weight} of {router.bits} bits)"


def _base(model_id: str, digest: str | None) -> str:
    return f"{model_id} ({digest[:16] if digest else 'no digest'})"


# What is left out of the file, as by earlier versions, which had nothing else to say.
_USUAL = {"router": None, "former": (), "padding_side": "left", "kind": "optional"}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _are_texts(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(map(_is_text, value)))


def _is_side(value: object) -> bool:
    return value in (None, "left", "right")


def _is_kind(value: object) -> bool:
    return value is None or value in KINDS


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


_CHECKS = {
    "site": _is_text,
    "D": _is_size,
    "d": _is_size,
    "feature": _is_text,
    "dtype": _is_text,
    "model_id": _is_text,
    "digest": lambda value: value is None or _is_text(value),
    "exporter": _is_text,
    "former": _are_texts,
    "padding_side": _is_side,
    "kind": _is_kind,
    "sites": _are_texts,
}
_ROUTER_CHECKS = {
    "kind": ROUTERS.__contains__,
    "digest": _is_text,
    "bits": _is_size,
    "weight": _is_size,
    "max_tokens": _is_size,
}
