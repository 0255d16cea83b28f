"""The README of an export directory."""

import re
from dataclasses import replace

import pytest

from memoir_edge import ports
from memoir_edge.cli import app
from memoir_edge_exporter import _readme


def test_its_readme_says_what_it_is_and_how_to_run_it(made) -> None:
    text = (made.out / "README.md").read_text(encoding="utf-8")
    assert f"# {made.exported.sidecar.model_id}, with ports" in text
    assert f"`{made.exported.sidecar.site}` (D = {made.exported.sidecar.D}" in text
    for called in ("RegisterCustomOpsLibrary", "RegisterCustomOpLibrary", "op_library_filename"):
        assert called in text
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    compile(code, "README.md", "exec")


@pytest.mark.parametrize("kind", ports.KINDS)
def test_its_readme_says_which_hosts_take_it(llama, kind: ports.Kind) -> None:
    text = _readme.text(replace(llama.exported.sidecar, kind=kind))
    assert ("the required inputs" in text) == (kind == "required")
    assert ("The graph itself carries" in text) == (kind in ("recurrent", "cache"))
    assert ("node answers as the base model **without saying so**" in text) == (kind == "optional")
    assert ("`memoir-edge package genai DIR --out NEW`" in text) == (kind != "cache")


@pytest.mark.parametrize("kind", ports.KINDS)
def test_the_commands_of_its_readme_are_whole(llama, kind: ports.Kind) -> None:
    text = " ".join(_readme.text(replace(llama.exported.sidecar, kind=kind)).split())
    for command in re.findall(r"`memoir-edge ([^`]+)`", text):
        app.parse_args(command, exit_on_error=False)
