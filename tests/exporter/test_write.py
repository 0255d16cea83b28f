"""The export directory: whole or not at all, and weights where they belong."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from memoir_edge import ports, sidecar
from memoir_edge.errors import GraphError, InputError
from memoir_edge_exporter import (
    add_ports,
    export,
    find_site,
    package_genai,
    package_optimum,
    package_triton,
    package_web,
)
from memoir_edge_exporter._write import companions, copy_weights, directory, load, save

Build = Callable[..., onnx.ModelProto]
Given = Callable[..., Path]
SITE = "model.layers.0.mlp.down_proj"
FEEDS = {"input_ids": np.arange(6).reshape(2, 3), "attention_mask": np.ones((2, 3), np.int64)}


def fill(folder: Path, text: str) -> None:
    (folder / sidecar.NAME).write_text(text)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- Rules 1 and 2: the directory ----------------------------------------------------------------


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "an earlier export"])
def test_a_directory_appears_whole(tmp_path: Path, there: str) -> None:
    out = tmp_path / "deep" / "out"
    if there != "nothing":
        out.mkdir(parents=True)
    if there == "an earlier export":
        fill(out, "old")
        (out / "model.onnx.data").write_text("old")
    with directory(out) as folder:
        assert folder.parent == out.parent
        fill(folder, "new")
        assert not (out / sidecar.NAME).exists() or (out / sidecar.NAME).read_text() == "old"
    assert (out / sidecar.NAME).read_text() == "new"
    assert names(out) == {sidecar.NAME}
    assert names(out.parent) == {"out"}
    assert out.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    fill(out, "old")

    def half(out: Path) -> None:
        with directory(out) as folder:
            fill(folder, "half")
            raise error

    for place in (out, tmp_path / "repository" / "model" / "1"):
        with pytest.raises(error):
            half(place)
    assert (out / sidecar.NAME).read_text() == "old"
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize("inside", [".", "notes"])
@pytest.mark.parametrize("there", ["an empty folder", "an earlier export"])
def test_nobody_is_left_in_a_folder_that_was_replaced(
    tmp_path: Path, monkeypatch, there: str, inside: str
) -> None:
    out = tmp_path / "out"
    here = out / inside if there == "an earlier export" else out
    here.mkdir(parents=True)
    if there == "an earlier export":
        fill(out, "old")
    monkeypatch.chdir(here)
    with pytest.raises(InputError, match="is the folder that this runs in"), directory(out):
        pytest.fail("must not be entered")
    with directory(here / "new") as folder:  # beside what is there
        fill(folder, "new")
    assert (here / "new" / sidecar.NAME).read_text() == "new"


def test_a_failing_exchange_puts_the_old_one_back(tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    fill(out, "old")
    rename, calls = Path.rename, []

    def second_fails(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise OSError("disk")
        return rename(self, target)

    def replace() -> None:
        with directory(out) as folder:
            fill(folder, "new")

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(InputError, match=r"cannot write .*out: disk"):
        replace()
    assert (out / sidecar.NAME).read_text() == "old"
    assert names(tmp_path) == {"out"}


def test_what_a_user_has_put_beside_an_export_stays(
    tmp_path: Path, three_nodes: Build, given: Given
) -> None:
    source = given(
        three_nodes(), save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    out = export(onnx_dir=source, out=tmp_path / "out").out
    parts = names(out)
    own = {"facts.safetensors", "facts.safetensors.journal", "notes.txt", "tests/a.jsonl"}
    own |= {"facts.onnx_adapter", "mine.onnx", "mine.onnx.data", "mine.onnx_data"}
    for name in own:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(name)
    (out / "link").symlink_to("facts.safetensors")
    for name in ("router/encoder.onnx", "encoder_model.onnx", "model.onnx.data"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("of an earlier export")
    with directory(out) as folder:
        fill(folder, "new")
        (folder / "notes.txt").write_text("made anew")
    assert "weights.bin" in parts
    assert names(out) == {sidecar.NAME, "link"} | {name.partition("/")[0] for name in own}
    own.remove("notes.txt")
    assert {name: (out / name).read_text() for name in own} == {name: name for name in own}
    assert (out / "notes.txt").read_text() == "made anew"
    assert (out / "link").is_symlink()


def test_the_adapters_of_an_earlier_package_go_with_it(tmp_path: Path, llama) -> None:
    out = tmp_path / "out"
    package_genai(llama.out, out)
    for name in ("old.onnx_adapter", "mine.onnx"):
        (out / name).write_text(name)
    package_genai(llama.out, out)
    assert "old.onnx_adapter" not in names(out)
    assert (out / "mine.onnx").read_text() == "mine.onnx"


PACKAGES: dict[str, Callable[[Path, Path], object]] = {
    "web": lambda folder, out: package_web([folder], out),
    "optimum": lambda folder, out: package_optimum(folder, out, folder / "facts.safetensors"),
    "genai": lambda folder, out: package_genai(folder, out),
    "triton": lambda folder, out: package_triton(folder, out.parent, name=out.name),
}


@pytest.mark.parametrize("host", PACKAGES)
@pytest.mark.parametrize("out", ["a/export", "a", "link"])
def test_a_package_does_not_replace_what_it_reads(
    tmp_path: Path, llama, host: str, out: str
) -> None:
    folder = tmp_path / "a/export"
    shutil.copytree(llama.out, folder)
    fill(tmp_path / "a", "an export around the other")
    (tmp_path / "link").symlink_to(folder)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(InputError, match="would be lost with what is there"):
        PACKAGES[host](folder, tmp_path / out)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("kind", ["a file", "another folder"])
def test_what_is_no_export_stays(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    precious = out if kind == "a file" else out / "thesis.txt"
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("precious")
    with pytest.raises(InputError, match="is in the way"), directory(out):
        pytest.fail("must not be entered")
    assert precious.read_text() == "precious"
    assert names(tmp_path) == {"out"}


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="cannot write"),
        directory(tmp_path / "file" / "out"),
    ):
        pytest.fail("must not be entered")


# --- Rules 3 and 4: the weights ------------------------------------------------------------------


def logits(session) -> np.ndarray:
    return session.run(["logits"], FEEDS)[0]


def test_weights_above_the_limit_lie_beside_the_graph(
    tmp_path: Path, three_nodes: Build, open_graph, memory
) -> None:
    model = three_nodes(D=64, d=32)
    ported = add_ports(model, find_site(model.graph, SITE))
    (inside, outside) = (tmp_path / "inside", tmp_path / "outside")
    for folder in (inside, outside):
        folder.mkdir()
    save(ported, inside)
    save(ported, outside, max_inside=1000)
    assert names(inside) == {"model.onnx"}
    assert names(outside) == {"model.onnx", "model.onnx.data"}
    assert (outside / "model.onnx.data").stat().st_size >= 4 * 64 * 32
    assert len((outside / "model.onnx").read_bytes()) < len((inside / "model.onnx").read_bytes())
    session = open_graph(outside)
    np.testing.assert_array_equal(logits(session), logits(open_graph(inside)))
    # The ports' own initializers are inside, so a memory can still replace them.
    found = load(outside).graph.initializer
    own = ports.MEMORY | ports.RUN
    assert not [w.name for w in found if w.name in own and w.external_data]
    feeds = FEEDS | ports.feeds(memory(np.arange(64)[None] < 20, 32, threshold=0))
    assert (session.run(["logits"], feeds)[0] != logits(session)).any()


def test_a_graph_with_weights_beside_it_keeps_them_there(
    tmp_path: Path, three_nodes: Build, given: Given, open_graph
) -> None:
    (plain,) = open_graph(three_nodes(D=64, d=32)).run(None, FEEDS)
    source = given(
        three_nodes(D=64, d=32),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    made = export(onnx_dir=source, out=tmp_path / "out")
    assert (made.out / "weights.bin").read_bytes() == (source / "weights.bin").read_bytes()
    assert made.bytes == sum(path.stat().st_size for path in made.out.iterdir())
    np.testing.assert_array_equal(logits(open_graph(made.out)), plain)


@pytest.mark.parametrize("place", ["../secret", "/etc/hostname", "missing.bin"])
def test_weights_elsewhere_are_refused(
    tmp_path: Path, three_nodes: Build, given: Given, place: str
) -> None:
    source = given(
        three_nodes(), save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    (tmp_path / "secret").write_text("secret")
    model = load(source)
    for weight in model.graph.initializer:
        next(e for e in weight.external_data if e.key == "location").value = place
    with pytest.raises(InputError, match=r"outside its folder|cannot copy"):
        copy_weights(model, source, tmp_path)


def test_an_invalid_graph_is_refused(tmp_path: Path, three_nodes: Build) -> None:
    model = three_nodes()
    model.graph.node[1].input[0] = "nowhere"
    with pytest.raises(GraphError, match="no valid ONNX"):
        save(model, tmp_path)


# --- What stands beside --------------------------------------------------------------------------


def test_companions_are_copied_as_far_as_there_are_any(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_text("large")
    (tmp_path / "to").mkdir()
    companions(tmp_path, tmp_path / "to")
    assert names(tmp_path / "to") == {"tokenizer.json"}
