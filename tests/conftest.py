"""What all tests share: the demo model in torch, what writes the docs, and an isolated home."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from memoir_edge import cache
from memoir_edge.demo.facts import model_dir

# Two threads on two busy cores wait for each other; these models are too small to gain from them.
torch.set_num_threads(1)
CACHE = cache.folder()


@pytest.fixture(autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own files, and none reaches for a model hub."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.getbasetemp() / "home"))
    monkeypatch.setenv("MEMOIR_EDGE_CACHE", str(CACHE))  # but models that were fetched once stay
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture(scope="session")
def demo_dir() -> Path:
    return model_dir()


PUBLISHED = {  # others' work, not shipped; where it can be had
    "zsre/zsre_eval.json": "github.com/shariqahn/EasyEdit",
    "zsre/knowedit_zsre.json": "github.com/YJiangcm/LTE",
    "counterfact/counterfact-edit.json": "github.com/qizhou000/RECIPE",
    "stories260K": "github.com/karpathy/llama2.c, as a transformers folder",
}


@pytest.fixture(scope="session")
def published() -> Callable[[str], Path]:
    """Where a part of `PUBLISHED` lies; skips where it does not."""
    root = Path(__file__).parents[1]
    folder = Path(os.environ.get("MEMOIR_EDGE_DATA", root / "../shared/data"))

    def find(name: str) -> Path:
        if not (folder / name).exists():
            pytest.skip(
                f"{name} of {PUBLISHED[name]} is not shipped; MEMOIR_EDGE_DATA names its folder"
            )
        return folder / name

    return find


@pytest.fixture(scope="session")
def tool() -> Callable[[str], ModuleType]:
    """A program of tools/ as a module, by its name."""
    folder = Path(__file__).parents[1] / "tools"

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def readme(tool: Callable[[str], ModuleType]) -> ModuleType:
    """tools/readme.py as a module."""
    return tool("readme")


@pytest.fixture(scope="session")
def real_model(tool: Callable[[str], ModuleType]) -> Callable[[str], Path]:
    """Where a model of tools/models.py lies; skips where no source gives it."""
    models = tool("models")

    def find(name: str) -> Path:
        try:
            return Path(models.path(name))
        except models.UnavailableError as error:
            pytest.skip(str(error))

    return find
