"""A sentence encoder as the router beside a graph: the folder `router` of an export directory.

    router/router.onnx      input_ids, attention_mask [B, T] -> code [B, P], what TopHash reads
    router/route.onnx       code [B, P] and a memory's keys -> route_out, overlap, candidate [B]
    router/tokenizer.json   cuts at the left what the encoder cannot read

Two graphs, so that one run of the encoder serves any number of memories, and a million keys are
searched where a host has the native kernel. Knows nothing of the model that answers.

Rules:
1. `router.onnx` is the offline formula (`memoir_edge.router.codes`): the encoder with its adapter,
   its own pooling, and the projection.
2. In int8 it is `_eight_bits` of that; in fp32 it is plain ONNX, of standard operators alone.
3. `route.onnx` is the Route op, its ports holding one guard that nothing reaches. Required of a
   host are only the keys; what codes need of the other ports is then in the graph.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from memoir_edge import ports, sidecar
from memoir_edge.errors import InputError, first_line
from memoir_edge.router.encoder import Encoder
from memoir_edge_exporter._base_graph import OPSET, quiet
from memoir_edge_exporter._bodies import VERSION, bodies
from memoir_edge_exporter._eight_bits import eight_bits
from memoir_edge_exporter._ports import ROUTE_INPUTS
from memoir_edge_exporter._write import ROUTER

Precision = Literal["int8", "fp32"]
KEYS = ("memory.bank", "memory.owner", "memory.thresholds")


def export_router(
    encoder: str | Encoder, out: Path, *, precision: Precision = "int8", required: bool = False
) -> sidecar.Router:
    """Write a router into an export directory.

    Encoders of sentence-transformers can be written whose tokenizer is a fast one, such as those of
    BERT, DistilBERT, RoBERTa, XLM-R and MPNet; not one that puts words of its own before each text.

    Args:
        encoder: Folder or hub id of a sentence encoder, or one that is loaded.
        out: The export directory.
        precision: Of the encoder's weights.
        required: Whether a memory's keys must be fed, as to a graph with required ports.

    Returns:
        What the directory's sidecar says of the router.

    Raises:
        InputError: No such encoder, one without a tokenizer, or one that cannot be written.

    Example:
        made = export_router("sentence-transformers/all-MiniLM-L6-v2", Path("onnx"))
    """
    read = Encoder(encoder) if isinstance(encoder, str) else encoder
    folder = out / ROUTER
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer(read).save(str(folder / "tokenizer.json"))
    with _explained(read.folder):
        onnx.save(code_graph(read, precision), folder / "router.onnx")
    onnx.save(route_graph(read.bits, read.weight, required=required), folder / "route.onnx")
    for graph in ("router.onnx", "route.onnx"):
        onnx.checker.check_model(str(folder / graph))
    return sidecar.Router(read.kind, read.digest, read.bits, read.weight, read.tokens)


@contextlib.contextmanager
def _explained(encoder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # torch and ONNX Runtime raise what they like
        raise InputError(
            f"cannot write encoder {encoder} as a graph: {first_line(error)}",
            hint="give another --encoder",
        ) from error


def tokenizer(encoder: Encoder) -> Any:
    """The encoder's tokenizer, which pads at the right and keeps the last tokens it can read.

    Raises:
        InputError: It cannot run without transformers, or the encoder changes the text itself.
    """
    own = encoder.module.tokenizer
    found = getattr(own, "backend_tokenizer", None)
    if found is None:
        raise InputError(
            f"the tokenizer of {encoder.folder} has no tokenizer.json",
            hint="give an encoder with a fast tokenizer",
        )
    prefix = encoder.module.prompts.get(encoder.module.default_prompt_name or "")
    if prefix or getattr(encoder.module[0], "do_lower_case", False):
        raise InputError(
            f"encoder {encoder.folder} changes a text before it is read",
            hint="give one without a default prompt and without do_lower_case",
        )
    copy = type(found).from_str(found.to_str())
    copy.enable_truncation(encoder.tokens, direction="left")
    copy.enable_padding(pad_id=own.pad_token_id or 0, pad_token=own.pad_token or "")
    return copy


# --- Rules 1 and 2 -------------------------------------------------------------------------------


def code_graph(encoder: Encoder, precision: Precision) -> onnx.ModelProto:
    """`router.onnx`."""
    with tempfile.TemporaryDirectory() as place, quiet():
        path = Path(place) / "router.onnx"
        _trace(encoder, path)
        return eight_bits(path, kept="/projection/") if precision == "int8" else onnx.load(path)


def _trace(encoder: Encoder, path: Path) -> None:
    import torch

    from memoir_edge_exporter._code import Code

    ids = torch.tensor([[0, 1, 2], [2, 1, 0]])
    attention = torch.tensor([[1, 1, 1], [1, 1, 0]])
    rows = {0: "B", 1: "T"}
    torch.onnx.export(
        Code(encoder).eval(),
        (ids, attention),
        str(path),
        dynamo=False,
        opset_version=OPSET,
        input_names=["input_ids", "attention_mask"],
        output_names=["code"],
        dynamic_axes={"input_ids": rows, "attention_mask": rows, "code": {0: "B"}},
    )


# --- Rule 3 --------------------------------------------------------------------------------------


def route_graph(P: int, weight: int, *, required: bool = False) -> onnx.ModelProto:
    """`route.onnx`."""
    route, _ = bodies(OPSET)
    defaults = ports.empty(P, 1) | {"memory.k": np.array([weight], np.int64)}
    sizes: dict[str | int, str | int] = {"D": P, "ceil(D/8)": -(-P // 8)}
    held = [name for name in ROUTE_INPUTS if not (required and name in KEYS)]
    declared = {name: ports.MEMORY[name] for name in ROUTE_INPUTS} | ports.OUTPUTS
    values = {
        name: helper.make_tensor_value_info(
            name,
            helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype)),
            [sizes.get(dim, dim) for dim in port.shape],
        )
        for name, port in declared.items()
    }
    graph = helper.make_graph(
        [
            _constant("one", np.ones(1, np.int64)),
            _constant("zero", np.zeros(1, np.int64)),
            helper.make_node("Unsqueeze", ["code", "one"], ["a"]),
            helper.make_node("Shape", ["code"], ["B"], start=0, end=1),
            helper.make_node("Expand", ["zero", "B"], ["undecided"]),
            helper.make_node("Concat", ["B", "one"], ["B1"], axis=0),
            helper.make_node("Expand", ["one", "B1"], ["span"]),
            helper.make_node(
                "Route", ["a", "span", "undecided", *ROUTE_INPUTS], [*ports.OUTPUTS],
                domain=ports.DOMAIN,
            ),
        ],
        "route",
        [
            helper.make_tensor_value_info("code", TensorProto.FLOAT, ["B", P]),
            *(values[name] for name in (KEYS if required else ROUTE_INPUTS)),
        ],
        [values[name] for name in ports.OUTPUTS],
        [numpy_helper.from_array(defaults[name], name) for name in held],
    )  # fmt: skip
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(ports.DOMAIN, VERSION)]
    return helper.make_model(graph, functions=[route], opset_imports=imports, ir_version=8)


def _constant(name: str, array: np.ndarray[Any, Any]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
