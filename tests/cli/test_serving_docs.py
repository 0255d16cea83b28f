"""The clients' examples of docs/serving.md print what the page says."""

import re
import shutil

import pytest


@pytest.fixture(scope="module")
def address(readme, done):
    with readme.served(done.graph, done.memory) as found:
        yield found


@pytest.mark.parametrize("language", ["python", "bash", "javascript"])
def test_an_example_prints_what_the_page_says(readme, address, language):
    program = readme.INTERPRETERS[language][0]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    name = f"serving-{language}"
    page = readme.SERVING.read_text(encoding="utf-8")
    (shown,) = re.findall(rf"begin: {name} -->\n(.*?)\n<!-- end", page, flags=re.DOTALL)
    assert readme.example(language, address) == shown, "run make docs"
