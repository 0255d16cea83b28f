"""The console's files: open where it is on, absent where it is off, bound by their policy."""

import posixpath
import re

import pytest

from memoir_edge.studio import app as studio
from memoir_edge_runtime.serve.pages import FILES, POLICY, is_page

KEY = "the-api-key"
ALL = {
    f"{folder}/{name}": content.decode()
    for folder, files in (("console", FILES), ("studio", studio.FILES))
    for name, content in files.items()
}


def test_the_console_is_off_by_default(make_server):
    with make_server().client() as client:
        assert client.get("/console").status_code == 404


def test_its_files_need_no_key_and_what_they_ask_for_does(make_server):
    with make_server(console=True, api_key=KEY).client() as client:
        for name in ("", *(f"/{name}" for name in FILES)):
            answer = client.get(f"/console{name}")
            assert answer.status_code == 200, name
            assert answer.headers["content-security-policy"] == POLICY
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert client.get("/console/main.js").headers["content-type"].startswith("text/javascript")
        for path in ("/console/none.js", "/console/..%2fpages.py", "/console/__init__.py"):
            assert client.get(path).status_code == 404
        assert client.get("/v1/memories/base/edits").status_code == 401
        assert client.get("/consoles").status_code == 401


def test_it_is_no_part_of_the_api(make_server):
    with make_server(console=True).client() as client:
        assert not any(map(is_page, client.get("/openapi.json").json()["paths"]))


@pytest.mark.parametrize("name", sorted(ALL))
def test_no_file_asks_another_host_or_makes_markup_of_text(name):
    text = ALL[name]
    hosts = set(re.findall(r"https?://[^\"'/ ]+", text))
    assert hosts <= {"http://www.w3.org"}, "a name of XML at most"
    for unsafe in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert unsafe not in text
    assert not re.search(r"<script(?! type=\"module\" src=)|\son\w+=\"|style=\"", text)


def test_every_module_that_is_imported_is_there():
    for name, text in ALL.items():
        for imported in re.findall(r'from "([^"]+)"', text):
            assert posixpath.normpath(posixpath.join(name, "..", imported)) in ALL, name
