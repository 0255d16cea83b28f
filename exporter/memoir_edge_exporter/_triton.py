"""A Triton model repository of an exported graph, for the ONNX Runtime backend.

    repository/llama/config.pbtxt
    repository/llama/ops/libmemoir_edge_ops.so           where it was built
    repository/llama/1/model.onnx                        and its weights
    repository/llama/1/memory.safetensors                where the version has one

In each version the graph's ports hold a memory from the start, so another memory is another
version: Triton loads it beside the one that answers, then switches. The route rides in the cache,
so a client that hands keys and values back is right. The ports stay optional inputs: the backend
knows them as overridable initializers, and takes those only of models that Triton does not batch.
"""

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from memoir_edge import files, sidecar
from memoir_edge import memory as memories
from memoir_edge.errors import GraphError, InputError
from memoir_edge_exporter._carry import carry
from memoir_edge_exporter._ports import hold
from memoir_edge_exporter._write import (
    copy_weights,
    directory,
    load,
    of_a_decoder_alone,
    require_apart,
    save,
)

CONFIG, OPS, MEMORY = "config.pbtxt", "ops", "memory.safetensors"
_TYPES = {1: "FP32", 2: "UINT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "FP16", 16: "BF16"}


@dataclass(frozen=True)
class Packaged:
    """What was written."""

    model: Path  # the folder of the model in the repository
    version: int
    digest: str | None  # of the memory
    library: str | None  # of the native ops, as the server will look for it
    kept: bool  # a configuration was there, and differs from the one that would have been written


def package_triton(
    folder: Path,
    repository: Path,
    *,
    memory: Path | None = None,
    name: str | None = None,
    library: Path | None = None,
    root: Path | None = None,
) -> Packaged:
    """Write a model, or one more version of it, into a repository.

    A configuration that is there is left as it is: it may have been edited.

    Args:
        folder: An export directory.
        repository: The model repository; made if it is not there.
        memory: What the version answers with; None is the base model.
        name: Of the model; default the export directory's.
        library: The native ops; without them the graph's own function bodies serve.
        root: Where the server finds the repository; default where it is written.

    Raises:
        GraphError: `folder` is no export directory, or its ports are required.
        InputError: A name that Triton would not take, a memory whose keys are codes, `folder` where
            the model would be, or a file that cannot be read or written.
        MemoryFormatError: The memory is none.
        MismatchError: The memory belongs to another model.
    """
    made = of_a_decoder_alone(folder)
    name = name or folder.resolve().name
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(f"{name!r} is no name of a model", hint="give one: --name NAME")
    model = repository.expanduser().resolve() / name
    require_apart(model, folder)
    if made.kind == "required":
        raise GraphError(
            f"{folder} has required ports, which hold no memory",
            hint="export it for Triton with --ports optional or state",
        )
    graph, held = load(folder), None
    if made.kind == "optional":
        carry(graph, "cache")
    if memory is not None:
        held = memories.read(memory)
        sidecar.check_fit(held, made)
        if held.codes is not None:
            raise InputError(
                f"{memory} is routed by an encoder beside the graph, which Triton does not run",
                hint="package a memory made without --encoder, or serve: memoir-edge serve",
            )
        hold(graph, held)
    version = max((int(p.name) for p in model.glob("[1-9]*") if p.name.isdigit()), default=0) + 1
    seen = None
    if library is not None:
        seen = str((root or repository).expanduser().absolute() / name / OPS / library.name)
    with directory(model / str(version)) as out:
        copy_weights(graph, folder, out)
        save(graph, out)
        if memory is not None:
            shutil.copyfile(memory, out / MEMORY)
        # Before the version is there: Triton may be watching.
        if library is not None:
            (model / OPS).mkdir(exist_ok=True)
            files.write(model / OPS / library.name, library.read_bytes())
        text = config(graph, name, seen).encode()
        kept = (model / CONFIG).exists() and (model / CONFIG).read_bytes() != text
        if not kept:
            files.write(model / CONFIG, text)
    return Packaged(model, version, held.digest if held else None, seen, kept)


def config(graph: onnx.ModelProto, name: str, library: str | None) -> str:
    """The text of `config.pbtxt`."""
    held = {initializer.name for initializer in graph.graph.initializer}
    inputs = [(value, value.name in held) for value in graph.graph.input]
    lines = [
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        "max_batch_size: 0  # the first dimension of every input is the batch's own",
        "version_policy { latest { num_versions: 1 } }",
    ]
    if library is not None:
        lines.append(f"model_operations {{ op_library_filename: {json.dumps(library)} }}")
    lines += _tensors("input", inputs)
    lines += _tensors("output", [(value, False) for value in graph.graph.output])
    return "\n".join(lines) + "\n"


def _tensors(what: str, values: Iterable[tuple[onnx.ValueInfoProto, bool]]) -> Iterator[str]:
    for value, optional in values:
        tensor = value.type.tensor_type
        dims = [dim.dim_value or -1 for dim in tensor.shape.dim]
        fields = [
            f"name: {json.dumps(value.name)}",
            f"data_type: TYPE_{_TYPES[tensor.elem_type]}",
            f"dims: {dims}",
            *(["optional: true"] if optional else []),
        ]
        yield f"{what} {{ {', '.join(fields)} }}"
