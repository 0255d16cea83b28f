"""A studio on the demo model, whose training takes a second."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from memoir_edge.demo.edits import showcase
from memoir_edge.demo.facts import model_dir
from memoir_edge.editor import BaseModel, Editor, choose, load, nothing
from memoir_edge.edits import Edit
from memoir_edge.history import load as load_journal
from memoir_edge.history import path_of
from memoir_edge.settings import Wishes
from memoir_edge.studio.files import Files
from memoir_edge.studio.trial import Studio


@pytest.fixture(scope="session")
def demo() -> BaseModel:
    return load(str(model_dir()), device="cpu")


@pytest.fixture(scope="session")
def wishes() -> Wishes:
    """Quick ones."""
    return Wishes(steps=30, repairs=0, passes=1, made_keys=0, false_fires=0.0)


@pytest.fixture(scope="session")
def make_editor(demo: BaseModel, wishes: Wishes) -> Callable[[], Editor]:
    settings = choose(demo, wishes)
    empty = nothing(demo, settings)
    return lambda: Editor(demo, settings, empty)


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    """The memory file and the file of edits."""
    return tmp_path / "m.safetensors", tmp_path / "edits.jsonl"


@pytest.fixture
def make_files(paths: tuple[Path, Path]) -> Iterator[Callable[[], Files]]:
    """What a studio that starts now goes on from; closed in the end."""
    with ExitStack() as opened:

        def make() -> Files:
            journal = load_journal(path_of(paths[0]), write=True)
            return opened.enter_context(closing(Files(*paths, journal, {"model": "demo"})))

        yield make


@pytest.fixture
def studio(make_editor: Callable[[], Editor], make_files: Callable[[], Files]) -> Studio:
    return Studio(make_editor(), make_files())


@pytest.fixture(scope="session")
def france() -> Edit:
    """One whose target is another than the model's answer, as it is typed into the page."""
    [edit] = [one for one in showcase() if one.id == "france-capital"]
    return Edit(prompt=edit.prompt, target=edit.target, id="france", subject="France", tags={})


@pytest.fixture(scope="session")
def japan() -> Edit:
    [edit] = [one for one in showcase() if one.id == "japan-currency"]
    return Edit(
        id="japan",
        prompt=edit.prompt,
        target=edit.target,
        subject="Japan",
        keys=("Japan pays in",),
        tags={},
    )
