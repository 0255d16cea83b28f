"""An exported graph in the layout of model hubs, for hosts that load from there.

    OUT/config.json, tokenizer.json, ...        as transformers and transformers.js read them
    OUT/onnx/model.onnx                         and model_fp16, model_quantized, model_q4: whichever
                                                exports were given
    OUT/memoir_edge.json, README.md
    OUT/router/                                 where the export has one
    OUT/NAME.safetensors                        the memories

`package_web` gives the graph required ports, for JavaScript. `package_optimum` makes it hold one
memory and carry the route in its cache, for hosts that know neither: optimum's ORTModelForCausalLM,
and transformers.js as it is.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from memoir_edge import memory as memories
from memoir_edge import sidecar
from memoir_edge.base import read_json
from memoir_edge.errors import GraphError, InputError
from memoir_edge_exporter import _readme
from memoir_edge_exporter._carry import as_kind
from memoir_edge_exporter._portable import portable
from memoir_edge_exporter._ports import hold, seal
from memoir_edge_exporter._router import route_graph
from memoir_edge_exporter._site import bits
from memoir_edge_exporter._write import (
    GRAPH,
    ROUTER,
    companions,
    copy_router,
    copy_weights,
    directory,
    load,
    of_a_decoder_alone,
    rename_weights,
    require_apart,
    require_names,
    save,
    weight_files,
    write_json,
)

GRAPHS = "onnx"


def package_web(
    folders: Sequence[Path], out: Path, *, held: Sequence[Path] = ()
) -> sidecar.Sidecar:
    """Write exports of one model, with memories, for JavaScript.

    Args:
        folders: Export directories that differ in precision only; the first one's other files are
            taken.
        out: The folder to make; made whole or not at all.
        held: Memory files, which go along under their names.

    Raises:
        GraphError: A folder is no export directory, or its ports are not optional.
        InputError: Two exports of one precision, two memories of one name, or something in the way,
            an export that is read among it.
        MemoryFormatError: A memory is none.
        MismatchError: A memory or an export belongs to another model.
    """
    require_apart(out, *folders)
    require_names([memory.name for memory in held])
    made = [_read(folder) for folder in folders]
    routed = {}
    for path in held:
        memory = memories.read(path)
        sidecar.check_fit(memory, made[0])
        routed[path.name] = memory.codes is not None
    for other, folder in zip(made[1:], folders[1:], strict=True):
        _check_same(made[0], other, folder)
    with directory(out) as folder:
        _beside(folders[0], folder, replace(made[0], kind="required"))
        _chat_template(folder)
        names = []
        for source in folders:
            graph = load(source)
            name = _name(graph)
            if (folder / GRAPHS / name).exists():
                raise InputError(
                    f"{source} is a second export as {name}", hint="give one of each precision"
                )
            _graph(portable(as_kind(graph, "required", folder)), name, source, folder)
            names.append(name)
        for path in held:
            shutil.copyfile(path, folder / path.name)
        _say(folder, _readme.web(made[0], names, routed))
    return replace(made[0], kind="required")


def package_optimum(folder: Path, out: Path, memory: Path) -> sidecar.Sidecar:
    """Write an export that holds a memory and carries the route in its cache.

    Args:
        folder: An export directory.
        out: The folder to make; made whole or not at all.
        memory: What the graph answers with.

    Raises:
        GraphError: `folder` is no export directory, or its ports are not optional.
        InputError: A memory whose keys are codes, or something in the way, `folder` among it.
        MemoryFormatError: The memory is none.
        MismatchError: The memory belongs to another model.
    """
    require_apart(out, folder)
    made = replace(_read(folder), kind="cache", router=None)
    held = memories.read(memory)
    if held.codes is not None:
        raise InputError(
            f"{memory} is routed by an encoder beside the graph, which such hosts do not run",
            hint="package a memory made without --encoder",
        )
    sidecar.check_fit(held, made)
    with directory(out) as place:
        _beside(folder, place, made)
        graph = seal(hold(as_kind(load(folder), "cache", place), held))
        _graph(graph, GRAPH, folder, place)
        shutil.copyfile(memory, place / memory.name)
        _say(place, _readme.optimum(made, memory.name))
    return made


def _read(folder: Path) -> sidecar.Sidecar:
    made = of_a_decoder_alone(folder)
    if made.kind != "optional":
        raise GraphError(
            f"{folder} was exported with {made.kind} ports, expected optional",
            hint="export it again without --ports",
        )
    return made


def _check_same(first: sidecar.Sidecar, other: sidecar.Sidecar, folder: Path) -> None:
    def model(made: sidecar.Sidecar) -> tuple[object, ...]:
        return made.sites, made.D, made.d, made.digest, made.router

    if model(first) != model(other):
        raise GraphError(
            f"{folder} is an export of another model, site or router than the first",
            hint="give exports of one model that differ in --dtype only",
        )


def _beside(source: Path, folder: Path, made: sidecar.Sidecar) -> None:
    """All but the graph, the memories and what is said of them."""
    companions(source, folder)
    sidecar.write(folder, made)
    if made.router is not None:
        copy_router(source, folder)
        route = route_graph(made.router.bits, made.router.weight, required=True)
        onnx.save(route, folder / ROUTER / "route.onnx")


def _say(folder: Path, text: str) -> None:
    (folder / _readme.NAME).write_text(text, encoding="utf-8")


def _chat_template(folder: Path) -> None:
    """Put the chat template where transformers.js reads it: into the tokenizer's configuration."""
    template, path = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    config = read_json(path)
    if template.is_file() and "chat_template" not in config:
        config["chat_template"] = template.read_text(encoding="utf-8")
        write_json(path, config)


def _graph(graph: onnx.ModelProto, name: str, source: Path, folder: Path) -> None:
    """The graph, and what weights lie beside it as transformers.js calls their file.

    Raises:
        GraphError: They lie in several files.
    """
    place, data, files = folder / GRAPHS, f"{name}_data", weight_files(graph)
    if len(files) > 1:
        raise GraphError(
            f"the weights of {source} lie in {len(files)} files, expected one",
            hint="save the graph with its weights in one file",
        )
    place.mkdir(exist_ok=True)
    for file in files:
        copy_weights(graph, source, place)
        (place / file).rename(place / data)
        rename_weights(graph, data)
    save(graph, place, name=name, data=data)
    if (place / data).exists():
        _say_external(folder / "config.json", name)


def _say_external(path: Path, name: str) -> None:
    """Tell transformers.js in `config.json` that a graph has weights beside it."""
    config = read_json(path)
    told = config.setdefault("transformers.js_config", {})
    told.setdefault("use_external_data_format", {})[name] = True
    write_json(path, config)


def _name(graph: onnx.ModelProto) -> str:
    """What transformers.js calls a graph, by its products and the type of its logits."""
    products = {(node.op_type, bits(node)) for node in graph.graph.node}
    logits = graph.graph.output[0].type.tensor_type
    half = logits.elem_type == onnx.TensorProto.FLOAT16
    if ("MatMulNBits", 4) in products:
        return "model_q4f16.onnx" if half else "model_q4.onnx"
    eight = {("MatMulNBits", 8), ("MatMulInteger", None), ("DynamicQuantizeMatMul", None)}
    if products & eight:
        return "model_quantized.onnx"
    return "model_fp16.onnx" if half else "model.onnx"
