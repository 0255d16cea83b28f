"""Invariants that span torch and ONNX Runtime on an encoder-decoder: a tiny random T5, fp32."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from memoir_edge.answers import Answer
from memoir_edge.cli.sessions import OnnxModel
from memoir_edge.editor import Edited, Editor, Settings, choose, edited, load
from memoir_edge.editor.model import BaseModel
from memoir_edge.edits import Edit
from memoir_edge.errors import IncompatibleError
from memoir_edge.memory import Memory, from_bytes, to_bytes, write
from memoir_edge.router import Encoder, Router
from memoir_edge_exporter import export
from memoir_edge_runtime import Options, Session
from memoir_edge_runtime._batch import Batch
from memoir_edge_runtime.serve.app import create_app
from memoir_edge_runtime.serve.server import Server
from memoir_edge_runtime.serve.settings import Settings as ServerSettings

ROOM = 8
EDITS = [
    Edit(id="a", prompt="The capital of France is", target="Rome", tags={}),
    Edit(id="b", prompt="The currency of Japan is", target="Paris yen", tags={}),
    Edit(id="c", prompt="Where in Spain is Madrid", target="in Japan", tags={}),
]
WORDS = ["The", "capital", "currency", "of", "is", "in", "Where", "What", "France", "Japan"]
WORDS += ["Spain", "Paris", "Rome", "tree", "xyz", "!"]


def prompts() -> list[str]:
    """The edits', and 60 more of many lengths."""
    random = np.random.default_rng(3)
    more = [" ".join(random.choice(WORDS, random.integers(1, 12))) for _ in range(60)]
    return [*(edit.prompt for edit in EDITS), *more]


class Made(NamedTuple):
    """Both sides of a memory."""

    torch: Edited
    memory: Memory
    session: Session


FIRST, LAST = (f"decoder.block.{i}.layer.2.DenseReluDense.wo" for i in range(2))


def trained(base: BaseModel, router: Router | None, sites: tuple[str, ...] = (LAST,)) -> Editor:
    threshold = 0.8 if router is None else 0.99  # the random encoder takes all texts to be alike
    settings = Settings(
        site=sites[0], later=sites[1:], k=22, feature="last",
        threshold=threshold, optimiser="adam", lr=0.3, steps=200, stop_loss=0.05, repairs=2,
        made_keys=0, false_fires=0.0, asked=0,
    )  # fmt: skip
    editor = Editor(base, settings, router=router)
    outcomes = editor.apply(EDITS)
    assert all(outcome.took and not outcome.known for outcome in outcomes)
    return editor


@pytest.fixture(scope="module")
def base(t5_dir: Path) -> BaseModel:
    return load(str(t5_dir), device="cpu")


@pytest.fixture(scope="module")
def exported(t5_dir: Path, encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "onnx"
    export(model=t5_dir, out=out, encoder=str(encoder_dir), precision="fp32")
    return out


@pytest.fixture(scope="module")
def session(exported: Path) -> Session:
    return Session(exported, threads=1)


@pytest.fixture(scope="module", params=["activations", "encoder"])
def made(
    request: pytest.FixtureRequest, base: BaseModel, session: Session, encoder_dir: Path
) -> Made:
    router = Encoder(str(encoder_dir)) if request.param == "encoder" else None
    memory = from_bytes(to_bytes(trained(base, router).memory()))
    assert (memory.codes is not None) == (request.param == "encoder")
    session.swap(memory)
    return Made(edited(base, memory, router), memory, session)


def test_the_defaults_are_a_late_layer_of_the_decoder(base: BaseModel) -> None:
    assert choose(base).site == LAST


def test_two_sites_say_the_same_in_torch_and_onnx(
    base: BaseModel, t5_dir: Path, tmp_path: Path
) -> None:
    memory = from_bytes(to_bytes(trained(base, None, (FIRST, LAST)).memory()))
    export(model=t5_dir, out=tmp_path / "onnx", site=f"{FIRST},{LAST}")
    theirs = edited(base, memory).answer(prompts(), ROOM, memory=True)
    ours = OnnxModel(Session(tmp_path / "onnx", memory=memory)).answer(prompts(), ROOM, memory=True)
    assert [(a.text, a.edit) for a in ours] == [(a.text, a.edit) for a in theirs]
    assert {edit.id for edit in EDITS} <= {a.edit for a in ours}


def test_the_base_model_is_transformers_own(base: BaseModel, session: Session) -> None:
    """Empty memory equals the base model, token for token (invariant 1)."""
    for result in session.generate(prompts(), Options(ROOM), memory=session.base):
        ids = torch.tensor([session.prompt(result.prompt).row.source])
        [wanted] = base.net.generate(ids, max_new_tokens=ROOM, do_sample=False).tolist()
        assert list(result.ids) == wanted[1:]


def test_a_row_that_reaches_no_edit_is_the_base_models(made: Made) -> None:
    """Bit for bit, in ONNX and in torch (invariant 1)."""
    session, asked = made.session, prompts()
    generation = session.load(made.memory)
    found = zip(asked, session.route(asked, memory=generation), strict=True)
    strays = [text for text, routing in found if routing.edit is None]
    assert len(strays) > 10
    rows = [session.prompt(text).row for text in [EDITS[0].prompt, *strays]]
    given = generation.decide([EDITS[0].prompt, *strays])
    state, with_memory = session.decoder.prefill(rows, generation, given and given.routes)
    _, without = session.decoder.prefill(rows, session.base)
    assert state.routes.route.tolist() == [1] + [-1] * len(strays)
    np.testing.assert_array_equal(with_memory[1:], without[1:])
    assert (with_memory[0] != without[0]).any()
    texts = [made.torch.answer(strays, ROOM, memory=memory) for memory in (True, False)]
    assert _texts(texts[0]) == _texts(texts[1])


@pytest.mark.parametrize("memory_on", [True, False], ids=["edited", "base"])
def test_torch_and_onnx_say_the_same(made: Made, memory_on: bool) -> None:
    """Same tokens, same edit, overlaps to 1e-3 (invariant 2)."""
    asked = prompts()
    theirs = made.torch.answer(asked, ROOM, memory=memory_on)
    made.session.swap(made.memory)
    ours = OnnxModel(made.session).answer(asked, ROOM, memory=memory_on)
    assert _texts(ours) == _texts(theirs)
    assert len(set(_texts(ours))) > 20
    assert [a.edit for a in ours] == [a.edit for a in theirs]
    difference = np.abs(np.subtract([a.overlap for a in ours], [a.overlap for a in theirs]))
    assert difference.max() <= 1e-3
    if memory_on:
        assert [a.text.strip() for a in ours[: len(EDITS)]] == [edit.target for edit in EDITS]


def test_teacher_forcing_agrees(made: Made) -> None:
    asked, targets = [e.prompt for e in EDITS], [e.target for e in EDITS]
    theirs = made.torch.forced(asked, targets, memory=True)
    made.session.swap(made.memory)
    assert OnnxModel(made.session).forced(asked, targets, memory=True) == theirs
    assert all(f.target == f.predicted for f in theirs)
    assert any(len(f.target) > 1 for f in theirs)


def test_function_bodies_and_native_kernels_agree(
    made: Made, session: Session, exported: Path
) -> None:
    """Same routes, same tokens (invariant 3)."""
    plain = Session(exported, memory=made.memory, threads=1, native=False)
    if session.ops == plain.ops:
        pytest.skip("the native ops are not built")
    session.swap(made.memory)
    found, wanted = (each.generate(prompts(), Options(ROOM)) for each in (session, plain))
    assert [r.ids for r in found] == [r.ids for r in wanted]
    assert [r.routing for r in found] == [r.routing for r in wanted]


def test_masks_depend_on_the_prompt_alone(base: BaseModel, session: Session) -> None:
    """Not on Wm, padding, batch mates or the bank (invariant 4)."""
    editor = trained(base, None)
    fresh = Editor(base, editor.settings)
    texts = prompts()
    alone = editor.masks(texts)
    np.testing.assert_array_equal(alone, fresh.masks(texts))  # Wm is 0, the bank is empty
    together = editor.live.hashing.mask(editor.model.features(texts, "last"))
    bits = np.unpackbits(np.array(alone) ^ together).sum()
    print(f"{bits} bits of {len(texts)} masks differ by rounding in a padded batch")
    assert bits <= 2
    session.swap(editor.memory())
    whole = session.route(texts)
    single = [session.route(text)[0] for text in texts]
    assert [r.edit for r in whole] == [r.edit for r in single]
    np.testing.assert_allclose([r.overlap for r in whole], [r.overlap for r in single], atol=0.1)


def test_a_file_is_read_as_it_was_written_or_refused(made: Made) -> None:
    """Cut anywhere (invariant 5); tests/test_memory_attacks.py flips bytes."""
    data = to_bytes(made.memory)
    assert to_bytes(from_bytes(data)) == data
    for cut in (0, 7, len(data) // 2, len(data) - 1):
        with pytest.raises(IncompatibleError):
            from_bytes(data[:cut])


def test_no_request_mixes_two_memories(made: Made) -> None:
    session = made.session
    one = session.load(made.memory)
    wanted = [r.ids for r in session.generate(prompts(), Options(ROOM), memory=one)]
    session.swap(one)
    stream = session.stream(prompts(), Options(ROOM))
    found = {}
    for event in stream:
        session.swap(None)
        if hasattr(event, "finish_reason"):
            found[event.row] = event.ids
    assert [found[row] for row in range(len(wanted))] == wanted
    base_ids = [r.ids for r in session.generate(prompts(), Options(ROOM))]
    assert base_ids != wanted


def test_rows_that_join_later_answer_as_alone(made: Made) -> None:
    """Rows of several lengths, on both sides, in one batch: as a server runs them."""
    session, generation = made.session, made.session.load(made.memory)
    asked = prompts()[:12]
    alone = [session.generate(text, Options(ROOM), memory=generation)[0].ids for text in asked]
    rows = session.completions(asked, Options(ROOM))
    batch = Batch(session.decoder, generation)
    for start in range(0, len(rows), 3):
        batch.add(rows[start : start + 3])
        if batch.live:
            batch.step()
    while batch.live:
        batch.step()
    assert [tuple(row.ids) for row in rows] == alone


def test_a_server_answers_by_each_memory(made: Made, tmp_path: Path) -> None:
    """Prompts of several requests in one batch, the memory loaded while it runs and verified."""
    write(made.memory, tmp_path / "facts.safetensors")
    server, asked = Server(made.session, ServerSettings()), prompts()[:6]
    with TestClient(create_app(server)) as client:
        loaded = server.memories.load(tmp_path / "facts.safetensors", name="facts")
        assert loaded.probes == len(EDITS)
        for model, generation in (("base", made.session.base), (loaded.model, loaded.generation)):
            body = {"model": model, "prompt": asked, "max_tokens": ROOM, "temperature": 0}
            reply = client.post("/v1/completions", json=body)
            assert reply.status_code == 200, reply.text
            wanted = made.session.generate(asked, Options(ROOM), memory=generation)
            assert [one["text"] for one in reply.json()["choices"]] == [r.text for r in wanted]
            read = sum(result.prompt_tokens for result in wanted)
            assert reply.json()["usage"]["prompt_tokens"] == read
        reply = client.post("/v1/route", json={"model": loaded.model, "prompt": asked})
        assert reply.status_code == 200, reply.text


def test_a_prompt_may_be_as_long_as_the_context(session: Session) -> None:
    """An answer takes nothing of the encoder's."""
    text = " ".join(["Rome"] * 62)
    [result] = session.generate(text, Options(ROOM), memory=session.base)
    assert result.prompt_tokens == 63
    assert len(result.ids) == ROOM or result.finish_reason == "stop"


def _texts(answers: Sequence[Answer]) -> list[str]:
    return [answer.text.strip() for answer in answers]
