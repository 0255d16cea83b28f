"""What all tests share: the demo model in torch, what writes the docs, and an isolated home."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from memoir_edge.demo.facts import model_dir

# Two threads on two busy cores wait for each other; these models are too small to gain from them.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own files, and none reaches for a model hub."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.getbasetemp() / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture(scope="session")
def demo_dir() -> Path:
    return model_dir()


@pytest.fixture(scope="session")
def readme() -> ModuleType:
    """tools/readme.py as a module."""
    spec = importlib.util.spec_from_file_location(
        "readme", Path(__file__).parents[1] / "tools/readme.py"
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
