"""The documentation says what the program says."""

import re
from pathlib import Path
from types import ModuleType

import pytest

import memoir_edge
from memoir_edge.demo.stages import CHAT

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("part", ["tree", "commands", "register"])
def test_generated_parts_are_fresh(readme: ModuleType, part: str) -> None:
    file, write = readme.FAST[part]
    text = (ROOT / file).read_text(encoding="utf-8")
    assert readme.replaced(text, part, write()) == text, "run make docs"


def test_the_demos_output_shows_the_demos_edits(readme: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"begin: demo -->\n(.*?)<!-- end: demo", text, flags=re.DOTALL)
    for prompt, target in [each[1:3] for each in CHAT.values()][: readme.SHOWN]:
        assert prompt.split()[1] in shown
        assert target in shown


def test_no_sentence_of_the_tree_breaks_off(readme: ModuleType) -> None:
    for line in readme.tree().splitlines()[1:-1]:
        name, _, said = line.strip().partition("  ")
        assert said.endswith((".", "?")) or name.removesuffix("/") in readme.REST, line


def test_every_linked_file_is_there() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_all_versions_are_one() -> None:
    import memoir_edge_exporter
    import memoir_edge_runtime

    version = memoir_edge.__version__
    assert memoir_edge_exporter.__version__ == memoir_edge_runtime.__version__ == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
