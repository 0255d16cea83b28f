"""Invariants that span torch and ONNX Runtime, on the demo model: real facts, real edits, fp32."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from memoir_edge.answers import Answer
from memoir_edge.cli.sessions import OnnxModel
from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import load_facts, model_dir, prompt
from memoir_edge.editor import Edited, Editor, Wishes, choose, edited, load
from memoir_edge.memory import Memory, from_bytes, to_bytes
from memoir_edge_exporter import export
from memoir_edge_runtime import Options, Session

ROOM = 12
EDITS = sample(8)


@pytest.fixture(scope="module")
def memory() -> Memory:
    base = load(str(model_dir()), device="cpu")
    editor = Editor(base, choose(base, Wishes(steps=40)))
    editor.apply(EDITS)
    return from_bytes(to_bytes(editor.memory()))


@pytest.fixture(scope="module")
def torch_model(memory: Memory) -> Edited:
    return edited(load(str(model_dir()), device="cpu"), memory)


@pytest.fixture(scope="module")
def session(memory: Memory, tmp_path_factory: pytest.TempPathFactory) -> Session:
    out = tmp_path_factory.mktemp("export") / "onnx"
    export(model=model_dir(), out=out)
    return Session(out, memory=memory)


def prompts() -> list[str]:
    """Everything the edits ask, and facts from all over: edited and not, in all phrasings."""
    asked = [text for e in EDITS for text in (e.prompt, *e.rephrase, *e.hard_negatives)]
    others = [prompt(fact, i % 8) for i, fact in enumerate(load_facts()[::12])]
    return list(dict.fromkeys([*asked, *others]))


@pytest.mark.parametrize("memory_on", [True, False], ids=["edited", "base"])
def test_torch_and_onnx_say_the_same(
    torch_model: Edited, session: Session, memory_on: bool
) -> None:
    """Same tokens, same edit, overlaps to 1e-3 (invariant 2)."""
    asked = prompts()
    assert len(asked) >= 200
    theirs = torch_model.answer(asked, ROOM, memory=memory_on)
    ours = OnnxModel(session).answer(asked, ROOM, memory=memory_on)
    assert _texts(ours) == _texts(theirs)
    assert [a.edit for a in ours] == [a.edit for a in theirs]
    difference = np.abs(np.subtract([a.overlap for a in ours], [a.overlap for a in theirs]))
    print(f"{len(asked)} prompts, largest difference of overlaps {difference.max():.1e}")
    assert difference.max() <= 1e-3
    fired = sum(a.edit is not None for a in ours)
    assert (fired > len(EDITS)) == memory_on


def test_teacher_forcing_agrees(torch_model: Edited, session: Session) -> None:
    asked = [e.prompt for e in EDITS]
    targets = [e.target for e in EDITS]
    theirs = torch_model.forced(asked, targets, memory=True)
    assert OnnxModel(session).forced(asked, targets, memory=True) == theirs
    assert any(len(f.target) > 1 for f in theirs)


def test_the_base_model_is_back_without_the_memory(session: Session, memory: Memory) -> None:
    asked = prompts()[:40]
    never = Session.generate(session, asked, Options(ROOM), memory=session.base)
    session.swap(None)
    assert [r.ids for r in session.generate(asked, Options(ROOM))] == [r.ids for r in never]
    session.swap(memory)
    now = session.generate([e.prompt for e in EDITS], Options(ROOM))
    assert [r.fired for r in now] == [e.id for e in EDITS]


def test_a_chat_reaches_its_edit(session: Session) -> None:
    """One turn, and as the last of three behind a system prompt."""
    edit = next(e for e in EDITS if e.rephrase[-1].startswith("Q: "))
    question = edit.rephrase[-1].removeprefix("Q: ").removesuffix(" A:")
    turns = [{"role": "user", "content": question}]
    [alone] = session.generate(session.chat_prompt(turns), Options(ROOM))
    assert alone.prompt.endswith(edit.rephrase[-1])
    assert alone.text.strip() == edit.target
    history = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is the atomic number of hydrogen?"},
        {"role": "assistant", "content": "1"},
    ]
    [later] = session.generate(session.chat_prompt([*history, *turns]), Options(ROOM))
    print("overlap alone and as a later turn:", alone.routing.overlap, later.routing.overlap)
    assert later.routing.candidate == edit.id


def _texts(answers: Sequence[Answer]) -> list[str]:
    return [answer.text for answer in answers]


def test_nothing_of_the_demo_is_written(session: Session) -> None:
    """The shipped model folder is read only in spirit: nothing may appear in it."""
    assert {path.name for path in Path(model_dir()).iterdir()} == {
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
