"""A folder that onnxruntime-genai serves: the graph carries its route, memories are adapters.

    package/model.onnx                   and its weights; the route is a recurrent state
    package/genai_config.json
    package/facts.onnx_adapter           one for each memory
    package/facts.safetensors            of a memory that the router routes, its keys
    package/router/                      where the export has one: then the route must be fed
    package/libmemoir_edge_ops.so        where it was built
    package/README.md                    the lines that serve it

It is an export directory as well, so `Session` opens it, too.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import onnx

from memoir_edge import base, onnx_adapter, sidecar
from memoir_edge import memory as memories
from memoir_edge.errors import GraphError, InputError
from memoir_edge.sites import head_size, heads, width
from memoir_edge_exporter import _readme
from memoir_edge_exporter._carry import carry, layers
from memoir_edge_exporter._write import (
    ADAPTER,
    GRAPH,
    companions,
    copy_router,
    copy_weights,
    directory,
    load,
    of_a_decoder_alone,
    require_apart,
    require_names,
    save,
)

_LONGEST = 1 << 20  # tokens, where a model states no context: genai sets room for them aside


@dataclass(frozen=True)
class PackagedGenai:
    """What was written."""

    out: Path
    adapters: dict[str, str]  # each memory's digest by the name of its adapter
    library: str | None  # of the native ops
    router: bool
    begin: tuple[int, ...]  # ids that every prompt begins with; genai's tokenizer leaves them out


def package_genai(
    folder: Path, out: Path, *, memory: Sequence[Path] = (), library: Path | None = None
) -> PackagedGenai:
    """Write the folder; whole or not at all.

    Args:
        folder: An export directory with ports that are optional or carry a recurrent state.
        out: The folder to make; an earlier one is replaced.
        memory: The memories to be chosen from, each named by its file.
        library: The native ops; without them the graph's own function bodies serve.

    Raises:
        GraphError: `folder` is no export directory, or its ports are of another kind.
        InputError: Two memories of one name, `out` holds `folder`, or a file cannot be read or
            written.
        MemoryFormatError: A memory is none.
        MismatchError: A memory belongs to another model, or wants another router.
    """
    require_apart(out, folder)
    made = of_a_decoder_alone(folder)
    if made.kind not in ("optional", "recurrent"):
        raise GraphError(
            f"{folder} has ports of kind {made.kind}, which onnxruntime-genai does not feed",
            hint="export the model with --ports optional, or --ports state --state recurrent",
        )
    require_names([path.stem for path in memory])
    held = {path.stem: memories.read(path) for path in memory}
    for each in held.values():
        sidecar.check_fit(each, made)
    with directory(out) as place:
        graph = load(folder)
        if made.kind == "optional":
            carry(graph, "recurrent")
        if made.router is not None:
            _ask_for_route(graph)
        copy_weights(graph, folder, place)
        save(graph, place)
        companions(folder, place)
        settings = _settings(folder, graph, library)
        (place / base.GENAI).write_text(json.dumps(settings, indent=4) + "\n", encoding="utf-8")
        for path in memory:
            onnx_adapter.write(held[path.stem], place / f"{path.stem}{ADAPTER}")
            if held[path.stem].codes is not None:
                shutil.copyfile(path, place / f"{path.stem}.safetensors")
        if made.router is not None:
            copy_router(folder, place)
        if library is not None:
            shutil.copyfile(library, place / library.name)
        sidecar.write(place, replace(made, kind="recurrent"))
        begin = _begin(place)
        routed = {name: each.codes is not None for name, each in held.items()}
        text = _readme.genai(made, routed, begin)
        (place / _readme.NAME).write_text(text, encoding="utf-8")
    adapters = {f"{name}{ADAPTER}": each.digest or "" for name, each in held.items()}
    name = library.name if library else None
    return PackagedGenai(out, adapters, name, made.router is not None, begin)


def _begin(folder: Path) -> tuple[int, ...]:
    """Ids that the tokenizer's file puts before a text."""
    post = base.read_json(folder / "tokenizer.json").get("post_processor") or {}
    for each in post.get("processors", [post]):
        if each.get("type") == "TemplateProcessing":
            parts = list(takewhile(lambda part: "SpecialToken" in part, each["single"]))
            known = each["special_tokens"]
            return tuple(id for p in parts for id in known[p["SpecialToken"]["id"]]["ids"])
    return ()


def _end(folder: Path) -> int | None:
    """Id of the tokenizer's own end of text."""
    text = base.special_tokens(folder).get("eos_token")
    added = base.read_json(folder / "tokenizer.json").get("added_tokens") or []
    return next((each["id"] for each in added if each["content"] == text), None)


def _ask_for_route(graph: onnx.ModelProto) -> None:
    """Make `memory.route` an input that must be fed: `set_model_input` ignores optional ones.

    In a package that is packaged anew it is one.
    """
    held = graph.graph.initializer
    for at in [i for i, weight in enumerate(held) if weight.name == "memory.route"]:
        del held[at]


def _settings(folder: Path, graph: onnx.ModelProto, library: Path | None) -> dict[str, Any]:
    """`genai_config.json`: the builder's own where there is one, else of the model's files."""
    found = base.read_json(folder / base.GENAI) or _described(folder, graph)
    options = found["model"]["decoder"].setdefault("session_options", {})
    options.pop("custom_ops_library", None)  # of a package that is packaged anew
    if library is not None:
        options["custom_ops_library"] = library.name
    return found


def _described(folder: Path, graph: onnx.ModelProto) -> dict[str, Any]:
    config = base.read_config(folder)
    known = {"number of attention heads": heads(config), "width": width(config)}
    if unknown := [name for name, value in known.items() if not value]:
        raise InputError(
            f"{folder / 'config.json'} names no {' and no '.join(unknown)}, which "
            "onnxruntime-genai wants to know",
            hint="give the folder of the model's own config.json when exporting: --model DIR",
        )
    ends = base.end_of_text(folder, _end(folder))
    length = min(base.context(config), _LONGEST)
    fed = [name for name in ("input_ids", "attention_mask", "position_ids") if _takes(graph, name)]
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": GRAPH,
        "head_size": head_size(config),
        "hidden_size": width(config),
        "inputs": {name: name for name in fed} | _NAMES["inputs"],
        "outputs": {"logits": "logits"} | _NAMES["outputs"],
        "num_attention_heads": heads(config),
        "num_hidden_layers": layers(graph.graph),
        "num_key_value_heads": config.get("num_key_value_heads") or heads(config),
    }
    model = {
        "bos_token_id": config.get("bos_token_id"),
        "context_length": length,
        "decoder": decoder,
        "eos_token_id": list(ends),
        "pad_token_id": _first(config.get("pad_token_id"), *ends),
        "type": "llama",  # genai refuses those it does not know; by the names above, all run alike
        "vocab_size": config.get("vocab_size"),
    }
    # The cache grows by concatenation, so it cannot lie in one place from the start.
    search = {"do_sample": False, "max_length": length, "past_present_share_buffer": False}
    return {"model": {k: v for k, v in model.items() if v is not None}, "search": search}


_NAMES: Mapping[str, dict[str, str]] = {
    "inputs": {
        "past_key_names": "past_key_values.%d.key",
        "past_value_names": "past_key_values.%d.value",
    },
    "outputs": {"present_key_names": "present.%d.key", "present_value_names": "present.%d.value"},
}


def _takes(graph: onnx.ModelProto, name: str) -> bool:
    return any(value.name == name for value in graph.graph.input)


def _first(*ids: int | None) -> int | None:
    return next((id for id in ids if id is not None), None)
