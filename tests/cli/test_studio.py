"""The command: what it begins from, what it leaves behind, and what `apply` makes of that."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from memoir_edge.cli import main
from memoir_edge.demo.edits import showcase
from memoir_edge.demo.facts import model_dir
from memoir_edge.edits import read
from memoir_edge_runtime.serve import process

QUICK = ("--steps", "40", "--passes", "1", "--repairs", "0", "--made-keys", "0")


def test_apply_goes_on_from_what_a_studio_kept(
    tmp_path: Path, run_json: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, edits = tmp_path / "m.safetensors", tmp_path / "edits.jsonl"
    words = ["--model", model_dir(), "--out", memory, "--device", "cpu", *QUICK]
    edit = showcase()[0]
    asked: list[tuple[str, int]] = []

    def visit(app: Any, host: str, port: int, *, grace: int) -> None:
        asked.append((host, port))
        with TestClient(app, base_url=f"http://{host}:{port}") as client:
            wanted = {"prompt": edit.prompt, "target": edit.target}
            client.post("/v1/studio/train", json=wanted)
            id = client.get("/v1/studio").json()["trial"]["id"]
            client.post("/v1/studio/settle", json={"id": id, "keep": True})

    monkeypatch.setattr(process, "listen", visit)
    monkeypatch.setattr("memoir_edge_runtime.serve.logs.configure", lambda: None)
    assert (
        main(["studio", *map(str, words), "--edits", str(edits), "--port", "8123", "--quiet"]) == 0
    )
    assert asked == [("127.0.0.1", 8123)]
    assert [one.target for one in read(edits)[0]] == [edit.target]
    code, document = run_json("apply", edits, *words)
    assert (code, document["skipped"], document["edits"]) == (0, 1, [])
    lines = [json.dumps(one.record()) for one in (*read(edits)[0], showcase()[1])]
    edits.write_text("\n".join(lines), encoding="utf-8")
    code, document = run_json("apply", edits, *words)
    assert (document["skipped"], document["edits"][0]["id"]) == (1, showcase()[1].id)


def test_what_cannot_be_begun_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.jsonl").write_text('[{"prompt": "a", "target": "b"}]', encoding="utf-8")
    for words, said in [
        (["--out", tmp_path / "none" / "m"], "no file in an existing folder"),
        (["--edits", tmp_path / "list.jsonl", "--out", tmp_path / "m"], "one JSON array"),
    ]:
        arguments = ["studio", "--model", model_dir(), "--device", "cpu", *words]
        assert main(list(map(str, arguments))) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
