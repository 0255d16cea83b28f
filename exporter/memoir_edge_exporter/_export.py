"""The export from end to end."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import onnx

from memoir_edge import sidecar
from memoir_edge.base import read_config, weights_digest
from memoir_edge.errors import GraphError, InputError
from memoir_edge.sites import default_site
from memoir_edge_exporter._base_graph import base_graph
from memoir_edge_exporter._ports import MIN_OPSET, add_ports, opset
from memoir_edge_exporter._site import find_site
from memoir_edge_exporter._write import GRAPH, MAX_PROTOBUF, companions, directory, save

DTYPES = ("fp32", "fp16")


@dataclass(frozen=True)
class Exported:
    """What an export made."""

    out: Path
    sidecar: sidecar.Sidecar
    nodes: int
    bytes: int
    seconds: float


def export(
    *,
    out: Path,
    model: Path | None = None,
    onnx_dir: Path | None = None,
    site: str | None = None,
    dtype: str = "fp32",
    model_id: str | None = None,
    max_protobuf: int = MAX_PROTOBUF,
) -> Exported:
    """Make a graph with ports, and what the runtime reads beside it.

    Args:
        out: The export directory; made whole or not at all.
        model: A transformers folder. With `onnx_dir` it only gives tokenizer and digest.
        onnx_dir: A folder with a decoder graph exported earlier, `model.onnx`.
        site: Module path of the edited layer; default by architecture.
        dtype: "fp32" or "fp16"; a given graph keeps its own.
        model_id: Name of the base model; default the folder's.
        max_protobuf: Bytes above which weights are stored beside the graph.

    Raises:
        InputError: No model, no tokenizer, an unknown dtype, or something in the way at `out`.
        SiteError: The site is not in the graph; says which layers are.
        GraphError: A given graph is no decoder that can take ports.
    """
    start = time.monotonic()
    source = onnx_dir or model
    if source is None:
        raise InputError("nothing to export", hint="give --model DIR or --onnx DIR")
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    site = site or default_site(read_config(model or source))
    with directory(out) as folder, tempfile.TemporaryDirectory() as scratch:
        if model is not None:
            companions(model, folder)
        if onnx_dir is None and model is not None:
            base_graph(model, Path(scratch), dtype)
            source = Path(scratch)
        companions(source, folder)
        graph = _load(source)
        found = find_site(graph.graph, site)
        add_ports(graph, found)
        save(graph, folder, max_protobuf)
        made = sidecar.Sidecar(
            site=site,
            D=found.D,
            d=found.d,
            feature="mean",
            dtype=_dtype(graph),
            model_id=model_id or (model or source).resolve().name,
            digest=weights_digest(model) if model else None,
            exporter=_version(),
        )
        sidecar.write(folder, made)
    size = sum(file.stat().st_size for file in out.iterdir())
    return Exported(out, made, len(graph.graph.node), size, time.monotonic() - start)


def _load(folder: Path) -> onnx.ModelProto:
    """The decoder graph of a folder.

    Raises:
        InputError: There is none, or it cannot be read.
        GraphError: It lacks what the ports need, or has them already.
    """
    path = folder / GRAPH
    try:
        model = onnx.load(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # protobuf's DecodeError is no stable name
        raise InputError(f"{path} is no ONNX model: {error}") from error
    inputs = {value.name for value in model.graph.input}
    lacking = {"input_ids", "attention_mask"} - inputs
    if lacking:
        raise GraphError(f"{path} is no decoder: it lacks the input {', '.join(sorted(lacking))}")
    if "memory.bank" in inputs:
        raise GraphError(f"{path} has memory ports already", hint="give the base model's graph")
    if opset(model) < MIN_OPSET:
        raise GraphError(
            f"{path} uses opset {opset(model)}, the ports need {MIN_OPSET} or newer",
            hint="export the base graph again with a newer opset",
        )
    return model


def _dtype(model: onnx.ModelProto) -> str:
    """Element type of the logits."""
    logits = model.graph.output[0].type.tensor_type.elem_type
    return {1: "fp32", 10: "fp16", 16: "bf16"}.get(logits, str(logits))


def _version() -> str:
    from memoir_edge_exporter import __version__

    return f"memoir-edge-exporter {__version__}"
