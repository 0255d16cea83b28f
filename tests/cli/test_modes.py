"""An option that a command's way of working takes no notice of is refused by its name."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from memoir_edge.cli import main
from memoir_edge.cli.extras import Routed, Torch
from memoir_edge.cli.modes import refuse
from memoir_edge.demo.facts import model_dir
from memoir_edge.errors import InputError
from memoir_edge.history import path_of
from memoir_edge.settings import Wishes

PYTORCH = ("--model", str(model_dir()))


def test_the_first_option_that_is_given_is_named() -> None:
    refuse("a mode", None, Wishes(), Routed(), out=None, plan=False)
    for given, options, name in (
        (Wishes(columns_per_edit=0), {}, "--columns-per-edit"),
        (Wishes(parity=True), {"out": "x"}, "--parity"),
        (Torch(model="x", device="cpu"), {}, "--model"),
        (None, {"out": None, "repairs": 0}, "--repairs"),
    ):
        with pytest.raises(InputError, match=f"^{name} is not for a mode$"):
            refuse("a mode", given, **options)


APPLY = ("apply", "EDITS", *PYTORCH, "--out", "OUT")
MEASURED = ("calibrate", "EDITS", *PYTORCH)
GRAPH = ("calibrate", "GRAPH", "--memory", "KEPT", "--out", "OUT")
HELD = ("calibrate", "--memory", "KEPT", *PYTORCH)
ON_GRAPH = ("eval", "GRAPH", "--memory", "KEPT", "--edits", "EDITS")
IN_PYTORCH = ("eval", "--memory", "KEPT", "--edits", "EDITS", *PYTORCH)
TABLE = ("eval", "--dataset", "zsre", "--data", "EDITS", *PYTORCH, "--out", "OUT")
DELETE = ("delete", "KEPT", "ID", "--no-replay")
GIVEN = ("export", "--onnx", "GRAPH", *PYTORCH, "--out", "OUT")


@pytest.mark.parametrize(
    ("words", "option"),
    [
        *((words, ("--without", "P19")) for words in (APPLY, MEASURED, HELD)),
        *((words, ("--relations", "x")) for words in (MEASURED, HELD)),
        *((HELD, option) for option in (
            ("--out", "OUT"), ("--layers", "5"), ("--unrelated", "missing.txt"), ("--site", "x"),
        )),
        *((GRAPH, option) for option in (
            PYTORCH, ("--encoder", "x"), ("--site", "x"), ("--layers", "5"), ("--unrelated", "x"),
        )),
        *((ON_GRAPH, option) for option in (
            ("--device", "cpu"), ("--encoder", "x"), ("--steps", "5"), ("--data", "EDITS"),
        )),
        *((IN_PYTORCH, option) for option in (
            ("--relations", "x"), ("--without", "P19"), ("--parity",), ("--sizes", "1"),
        )),
        *((TABLE, option) for option in (
            ("--edits", "EDITS"), ("--html", "x.html"), ("--skip-bad",),
        )),
        *((DELETE, option) for option in (
            PYTORCH, ("--device", "cpu"), ("--encoder", "x"), ("--repairs", "0"),
        )),
        *((GIVEN, option) for option in (
            ("--dtype", "int4"), ("--dtype", "fp32"), ("--builder", "genai"),
            ("--encoder-dtype", "fp32"),
        )),
    ],
)  # fmt: skip
def test_no_option_is_swallowed(
    done: Any, tmp_path: Path, capsys: Any, words: tuple[str, ...], option: tuple[str, ...]
) -> None:
    kept = tmp_path / "m.safetensors"
    shutil.copy(done.memory, kept)
    shutil.copy(path_of(done.memory), path_of(kept))
    held = {path: path.read_bytes() for path in tmp_path.iterdir()}
    place = {"GRAPH": done.graph, "EDITS": done.edits, "KEPT": kept, "OUT": tmp_path / "new",
             "ID": done.applied["edits"][0]["id"]}  # fmt: skip
    assert main([str(place.get(word, word)) for word in (*words, *option)]) == 2
    assert f"error: {option[0]} is not for " in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == held
