"""docs/ports.md says what the code does."""

import dataclasses
import re
from pathlib import Path

import onnx
import pytest

from memoir_edge import ports, sidecar
from memoir_edge_exporter._bodies import bodies

PAGE = (Path(__file__).parents[2] / "docs" / "ports.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "port"), (ports.MEMORY | ports.RUN | ports.OUTPUTS).items())
def test_every_port_is_on_the_page(name: str, port: ports.Port) -> None:
    shape = ", ".join(map(str, port.shape))
    assert f"| `{name}` | {port.dtype} | `[{shape}]` |" in PAGE


def test_no_other_port_is_on_the_page() -> None:
    assert set(re.findall(r"\| `(memory\.\w+)` \|", PAGE)) == {
        *ports.MEMORY, *ports.RUN, *ports.OUTPUTS,
    }  # fmt: skip


@pytest.mark.parametrize("function", bodies(), ids=lambda function: function.name)
def test_every_op_is_on_the_page(function: onnx.FunctionProto) -> None:
    inputs, outputs = ", ".join(function.input), ", ".join(function.output)
    outputs = f"({outputs})" if len(function.output) > 1 else outputs
    assert f"### `{function.name}({inputs}) -> {outputs}`" in PAGE


def test_every_field_of_the_sidecar_is_on_the_page() -> None:
    table = PAGE.split("## `memoir_edge.json`")[1]
    named = {field.name for field in dataclasses.fields(sidecar.Sidecar)} - {"later"}
    for name in named | {"sites", "ports"}:
        assert re.search(rf"^\| .*`{name}`", table, re.MULTILINE), name
