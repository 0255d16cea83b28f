"""Make functions that onnxscript wrote the same in every process.

onnxscript lists and numbers the outputs of an If in the order of a Python set, which changes with
the hash seed. Rules, for an If at the top of a function:
1. Its outputs are listed in the order of the variables' names.
2. Outside, each has its variable's own name; within a branch, that name followed by the branch's.
"""

import onnx


def settle(function: onnx.FunctionProto) -> onnx.FunctionProto:
    """Apply the rules in place; returns the function."""
    for node in function.node:
        if node.op_type == "If":
            outer = _settle_if(node)
            for reader in function.node:
                reader.input[:] = [outer.get(name, name) for name in reader.input]
            function.output[:] = [outer.get(name, name) for name in function.output]
    return function


def _settle_if(node: onnx.NodeProto) -> dict[str, str]:
    """Both rules; returns the new names of the outputs."""
    branches = {attribute.name: attribute.g for attribute in node.attribute}
    variables = [output.name for output in branches["then_branch"].output]
    order = sorted(range(len(variables)), key=variables.__getitem__)
    for name, branch in branches.items():
        _rename(branch, dict(zip(_names(branch), (f"{v}/{name}" for v in variables), strict=True)))
        listed = [branch.output[i] for i in order]
        del branch.output[:]
        branch.output.extend(listed)
    renamed = dict(zip(node.output, variables, strict=True))
    node.output[:] = [variables[i] for i in order]
    return renamed


def _names(graph: onnx.GraphProto) -> list[str]:
    return [output.name for output in graph.output]


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for output in graph.output:
        output.name = names[output.name]
