"""`memoir-edge chat`: a conversation through a pipe, and lines as they are typed."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from memoir_edge import cache
from memoir_edge.cli import main
from memoir_edge.cli.conversation import Conversation
from memoir_edge.cli.sessions import open_session
from memoir_edge.cli.terminal import lines

ASKED = "The capital of France is"


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts lines on standard input."""
    return lambda *said: monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(said)))


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts lines on standard input as bytes, which must be UTF-8."""

    def put(*said: bytes) -> None:
        stream = io.TextIOWrapper(io.BytesIO(b"\n".join(said)), "utf-8")
        monkeypatch.setattr("sys.stdin", stream)

    return put


@pytest.fixture(scope="module")
def session(done: Any) -> Any:
    return open_session(done.graph, threads=1)


@pytest.fixture
def talk(session: Any, done: Any) -> Conversation:
    from memoir_edge_runtime import Options

    session.swap(done.memory)
    return Conversation(session, Options(max_new_tokens=3))


def heard(talk: Conversation, line: str) -> str:
    return "".join(talk.hear(line)).strip()


def test_a_transcript_says_who_answered_and_why(done: Any, say: Any, run_json: Any) -> None:
    say(ASKED, "/base", f"/memory {done.memory}", ASKED, "/why", "/quit", "never asked")
    code, document = run_json("chat", done.graph, "--max-new-tokens", 3)
    turns = document["turns"]
    assert code == 0
    assert [(t["base"], t["memory"]["edit"]) for t in turns] == [
        (False, None), (True, None), (False, "france-capital"),
    ]  # fmt: skip
    assert turns[0]["assistant"] == turns[1]["assistant"]
    assert turns[2]["assistant"].strip() == "Rome"
    assert {t["user"] for t in turns} == {ASKED}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"word " * 400, "(shorten it)"),
        (b"h\xffi", "no character (read it as UTF-8)"),
        (b"/memory nowhere", "cannot read memory nowhere"),
        (b"/what", "there is no command /what"),
        (b"/base", "nothing has been asked yet"),
    ],
)
@pytest.mark.parametrize("how", ["--json", "--quiet", None])
def test_a_pipe_tells_what_failed_and_goes_on(
    done: Any, piped: Any, capsys: Any, line: bytes, error: str, how: str | None
) -> None:
    piped(line, ASKED.encode())
    words = ["chat", str(done.graph), "--max-new-tokens", "3", *([how] if how else [])]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert error in err
    if how == "--json":
        failed, answer = json.loads(out)["turns"]
        assert failed["user"] == line.decode(errors="replace").replace("\ufffd", "?")
        assert error in failed["error"]
        assert answer["assistant"].strip() == "Paris"
    else:
        assert out.strip() == ("" if how else "Paris")


def test_without_a_chat_template_a_pipe_says_so(
    done: Any, piped: Any, capsys: Any, tmp_path: Path
) -> None:
    graph = shutil.copytree(done.graph, tmp_path / "graph")
    (graph / "chat_template.jinja").unlink()
    piped(b"hi")
    assert main(["chat", str(graph), "--json"]) == 2
    out, err = capsys.readouterr()
    assert "chat template" in json.loads(out)["turns"][0]["error"]
    assert "chat template" in err


def test_people_see_the_answer_and_its_reason(done: Any, say: Any, capsys: Any) -> None:
    say(ASKED, "/why")
    words = ["--memory", str(done.memory), "--max-new-tokens", "3", "--system", "Be brief."]
    assert main(["chat", str(done.graph), *words]) == 0
    answer, why = capsys.readouterr().out.splitlines()
    assert answer.strip() == "Rome"
    assert "with france-capital reaches its threshold" in why


def test_a_conversation_goes_on_and_begins_anew(talk: Conversation) -> None:
    assert heard(talk, ASKED) == "Rome"
    assert heard(talk, "/base") == "Paris"
    assert [m["role"] for m in talk.messages] == ["user", "assistant"]
    heard(talk, "And Germany?")
    assert [m["content"] for m in talk.messages[::2]] == [ASKED, "And Germany?"]
    heard(talk, "/clear")
    assert (talk.messages, heard(talk, "/why")) == ([], "nothing has been asked yet")


def test_a_memory_is_taken_out_and_a_bad_one_changes_nothing(talk: Conversation, done: Any) -> None:
    assert "cannot read memory nowhere" in heard(talk, "/memory nowhere")
    assert heard(talk, ASKED) == "Rome"
    assert heard(talk, "/memory") == "the base model answers"
    assert heard(talk, ASKED) == "Paris"
    assert heard(talk, f"/memory {done.memory}").startswith("3 edits, ")


def test_what_is_no_message_is_said(talk: Conversation) -> None:
    assert heard(talk, "/what") == "there is no command /what; /help lists those there are"
    assert heard(talk, "/base") == "nothing has been asked yet"
    assert heard(talk, "  ") == ""
    assert heard(talk, "word " * 400).endswith("(shorten it)")
    assert talk.messages == []
    assert "/why     Which edit" in heard(talk, "/help")


def test_ctrl_c_stops_an_answer_and_not_the_chat(
    done: Any, say: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Conversation, line: str) -> Any:
        yield "Ro"
        if line == "first":
            raise KeyboardInterrupt

    monkeypatch.setattr(Conversation, "hear", interrupted)
    say("first", "second")
    assert main(["chat", str(done.graph)]) == 0
    assert capsys.readouterr().out == "Ro\nRo\n"


def test_a_terminal_has_history_and_several_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    pytest.importorskip("prompt_toolkit", reason="the extra chat is not installed")
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    monkeypatch.setenv("MEMOIR_EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with create_pipe_input() as typed, create_app_session(typed, DummyOutput()):
        typed.send_text("one\x1b\rtwo\r")  # Alt-Enter, Enter
        typed.send_text("lost\x03")  # Ctrl-C
        typed.send_text("/why\r\x04")  # Ctrl-D
        assert list(lines("> ", ["/why"])) == ["one\ntwo", "/why"]
    kept = (cache.folder() / "chat-history").read_text().splitlines()
    assert [line for line in kept if line.startswith("+")] == ["+one", "+two", "+/why"]


def test_without_prompt_toolkit_a_terminal_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from memoir_edge.errors import InputError

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setitem(__import__("sys").modules, "prompt_toolkit", None)
    with pytest.raises(InputError, match="needs prompt_toolkit"):
        next(lines("> ", []))
