"""What all tests share: the demo model in torch, and an isolated home."""

from pathlib import Path

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
