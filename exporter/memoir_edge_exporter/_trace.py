"""Trace a torch model without its weights, and write them into the graph afterwards.

torch's exporter holds each weight several times: in the nodes whose shapes it infers, folded, in
the graph and in the graph's bytes. Rules:

1. While a model is traced, its weights are inputs of the graph, and a single number stands in for
   the values of each.
2. Afterwards they become initializers, in the graph or, where they are large, in a file beside it,
   one after the other.
3. A weight that is read transposed only is written transposed, as folding constants would leave it.

Imported when a model is exported, because it needs torch.
"""

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from unittest import mock

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from memoir_edge_exporter._write import MAX_INSIDE, SMALL

Weights = dict[str, torch.Tensor]
_ALIGNED = 1 << 12  # bytes; from such places a host maps a file into memory


# --- Rule 1 --------------------------------------------------------------------------------------


@contextlib.contextmanager
def weightless() -> Iterator[Weights]:
    """Within, torch.onnx.export leaves the weights out of a graph; they are added to the yielded.

    It takes a model's inputs as optimum gives them: one mapping by name.
    """
    found: Weights = {}
    export = torch.onnx.export

    def traced(model: Any, args: Any, *, input_names: list[str], **options: Any) -> None:
        weights = dict(model.named_parameters())
        found.update({name: weight.detach() for name, weight in weights.items()})
        [inputs] = args
        order = [name for name in inspect.signature(model.forward).parameters if name in inputs]
        stand_ins = [torch.zeros((), dtype=w.dtype).expand(w.shape) for w in weights.values()]
        given = ({name: inputs[name] for name in order}, stand_ins)
        with _fed(model, list(weights.values())):
            export(model, given, input_names=[*input_names, *weights], **options)

    with mock.patch.object(torch.onnx, "export", traced):
        yield found


@contextlib.contextmanager
def _fed(model: Any, weights: list[torch.Tensor]) -> Iterator[None]:
    """While open, the model's forward takes its weights as a second argument."""
    forward, number = model.forward, {id(weight): i for i, weight in enumerate(weights)}
    places = [
        (module._parameters, name, number[id(weight)])
        for module in model.modules()
        for name, weight in module.named_parameters(recurse=False)  # a tied one in each place
    ]

    def place(given: Sequence[Any]) -> None:
        for parameters, name, i in places:
            parameters[name] = given[i]

    def fed(inputs: dict[str, Any], given: list[Any]) -> Any:
        place(given)
        return forward(**inputs)

    model.forward = fed
    try:
        yield
    finally:
        place(weights)
        model.forward = forward


# --- Rules 2 and 3 -------------------------------------------------------------------------------


def put_weights(path: Path, weights: Mapping[str, torch.Tensor], inside: int = MAX_INSIDE) -> None:
    """Write weights into a graph that takes them as inputs.

    Args:
        path: The graph's file; beside it comes `NAME.data`, where it is needed.
        weights: By input.
        inside: Most bytes that stay in the graph itself.
    """
    model = onnx.load(path)
    graph = model.graph
    for value in [value for value in graph.input if value.name in weights]:
        graph.input.remove(value)
    readers = _readers(graph, weights)
    turned = _turn(graph, readers)
    beside = sum(weights[name].nbytes for name in readers) > inside
    data = path.with_name(f"{path.name}.data")
    with data.open("wb") if beside else contextlib.nullcontext() as file:
        for name in readers:
            weight = weights[name].T if name in turned else weights[name]
            array = weight.contiguous().numpy()
            if file is None or array.nbytes < SMALL:
                tensor = numpy_helper.from_array(array, turned.get(name, name))
            else:
                tensor = _outside(turned.get(name, name), array, file)
            graph.initializer.append(tensor)
    onnx.save(model, path)


_Readers = dict[str, list[onnx.NodeProto]]


def _readers(graph: onnx.GraphProto, weights: Mapping[str, torch.Tensor]) -> _Readers:
    """The nodes that read each weight; a weight that none reads is left out."""
    found: _Readers = {}
    for node in _nodes(graph):
        for name in node.input:
            if name in weights:
                found.setdefault(name, []).append(node)
    return found


def _turn(graph: onnx.GraphProto, readers: _Readers) -> dict[str, str]:
    """Drop the transpositions of weights that nothing else reads; new names of those by old."""
    top = {id(node) for node in graph.node}
    turned = {
        name: f"{name}.T"
        for name, nodes in readers.items()
        if all(id(node) in top and _reverses(node) for node in nodes)
    }
    dropped = [node for name in turned for node in readers[name]]
    renamed = {node.output[0]: turned[node.input[0]] for node in dropped}
    for node in dropped:
        graph.node.remove(node)
    for node in _nodes(graph):
        node.input[:] = [renamed.get(name, name) for name in node.input]
    return turned


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """A graph's nodes, and those within them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _reverses(node: onnx.NodeProto) -> bool:
    return node.op_type == "Transpose" and [list(a.ints) for a in node.attribute] == [[1, 0]]


def _outside(name: str, array: np.ndarray, file: BinaryIO) -> TensorProto:
    """An initializer whose values are appended to a file."""
    file.write(bytes(-file.tell() % _ALIGNED))
    place = {"location": Path(file.name).name, "offset": file.tell(), "length": array.nbytes}
    array.tofile(file)
    tensor = TensorProto(
        name=name,
        dims=array.shape,
        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor
