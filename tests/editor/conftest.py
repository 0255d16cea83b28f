"""A tiny random Llama, quick to edit, and the demo model."""

from collections.abc import Callable
from pathlib import Path

import pytest

from memoir_edge.demo.facts import model_dir
from memoir_edge.editor import BaseModel, Editor, Settings, load
from memoir_edge.edits import Edit

SITE = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="session")
def tiny(tiny_dir: Path) -> BaseModel:
    return load(str(tiny_dir), device="cpu")


@pytest.fixture(scope="session")
def t5(t5_dir: Path) -> BaseModel:
    """A tiny random encoder-decoder."""
    return load(str(t5_dir), device="cpu")


@pytest.fixture(scope="session")
def demo() -> BaseModel:
    return load(str(model_dir()), device="cpu")


@pytest.fixture
def settings() -> Settings:
    return Settings(
        site=SITE, k=13, feature="last", threshold=0.7, steps=5, prefixes=2, thinned=2, repairs=0
    )


@pytest.fixture
def make_editor(tiny: BaseModel, settings: Settings) -> Callable[[], Editor]:
    return lambda: Editor(tiny, settings)


@pytest.fixture(scope="session")
def an_edit() -> Callable[..., Edit]:
    """Makes an edit of a prompt and a target."""
    return lambda text, target, **rest: Edit(
        id=text[:12], prompt=text, target=target, tags={}, **rest
    )
