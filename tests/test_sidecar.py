"""`memoir_edge.json`: what is written is read; anything else is refused with a reason."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from memoir_edge import ports, sidecar
from memoir_edge.errors import GraphError
from memoir_edge.sidecar import Sidecar

GOOD = Sidecar(
    "model.layers.6.mlp.down_proj", 768, 192, "mean", "fp32", "demo", "ab12", "exporter 1"
)


@pytest.mark.parametrize("digest", ["ab12", None])
@pytest.mark.parametrize("side", ["left", "right"])
def test_read_gives_what_was_written(tmp_path: Path, digest: str | None, side: str) -> None:
    former = ("cd34",) if digest else ()
    written = dataclasses.replace(GOOD, digest=digest, former=former, padding_side=side)
    for kind in ports.KINDS:
        sidecar.write(tmp_path, dataclasses.replace(written, kind=kind))
        assert sidecar.read(tmp_path) == dataclasses.replace(written, kind=kind)


def test_the_file_is_what_the_docstring_says(tmp_path: Path) -> None:
    sidecar.write(tmp_path, GOOD)
    assert json.loads((tmp_path / "memoir_edge.json").read_text()) == {
        "format": 1, "ports": 1, "site": "model.layers.6.mlp.down_proj", "D": 768, "d": 192,
        "feature": "mean", "dtype": "fp32", "model_id": "demo", "digest": "ab12",
        "exporter": "exporter 1",
    }  # fmt: skip


def test_several_sites_are_of_another_version_of_the_ports(tmp_path: Path) -> None:
    two = dataclasses.replace(GOOD, later=("model.layers.7.mlp.down_proj",))
    sidecar.write(tmp_path, two)
    raw = json.loads((tmp_path / "memoir_edge.json").read_text())
    assert raw["ports"] == 2
    assert raw["sites"] == [GOOD.site, "model.layers.7.mlp.down_proj"] == list(two.sites)
    assert sidecar.read(tmp_path) == two
    for wrong in ({"ports": 1}, {"site": "other"}, {"sites": [GOOD.site]}, {"sites": None}):
        (tmp_path / "memoir_edge.json").write_text(json.dumps(raw | wrong))
        with pytest.raises(GraphError, match="sites that its site and ports do not fit"):
            sidecar.read(tmp_path)


def test_a_field_of_a_later_version_of_this_format_is_ignored(tmp_path: Path) -> None:
    change(tmp_path, later="yes")
    assert sidecar.read(tmp_path) == GOOD


def change(folder: Path, **changes: Any) -> None:
    sidecar.write(folder, GOOD)
    raw = json.loads((folder / sidecar.NAME).read_text()) | changes
    (folder / sidecar.NAME).write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ports": 3, "site": 1}, "ports 3, this version knows format 1 and ports 1 and 2"),
        ({"ports": 2}, "sites that its site and ports do not fit"),
        ({"sites": ["a", 5]}, "sites = "),
        ({"format": 2}, "format 2"),
        ({"format": True}, "format True"),
        ({"ports": None}, "ports None"),
        ({"site": ""}, "site = ''"),
        ({"D": 0}, "D = '0'"),
        ({"D": True}, "D = 'True'"),
        ({"d": "192"}, "d = '192'"),
        ({"feature": None}, "feature = 'None'"),
        ({"dtype": 32}, "dtype = '32'"),
        ({"model_id": []}, "model_id"),
        ({"digest": 5}, "digest = '5'"),
        ({"kind": "other"}, "kind = 'other'"),
        ({"former": "ab"}, "former = 'ab'"),
        ({"former": [5]}, "former"),
        ({"exporter": {}}, "exporter"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    change(tmp_path, **changes)
    with pytest.raises(GraphError, match=message) as caught:
        sidecar.read(tmp_path)
    assert caught.value.exit_code == 3
    assert caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "[" * 100_000, b"\xff"])
def test_no_object_is_refused(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / sidecar.NAME).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(GraphError, match=r"memoir_edge\.json"):
        sidecar.read(tmp_path)


def test_a_folder_without_it_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="is no export of memoir-edge") as caught:
        sidecar.read(tmp_path)
    assert "memoir-edge export" in str(caught.value.hint)
