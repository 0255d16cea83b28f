"""Memories whose keys are codes: a router beside the graph decides before the prompt is read."""

import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from memoir_edge import memory as memories
from memoir_edge import sidecar, tophash
from memoir_edge.errors import GraphError, InputError, MismatchError
from memoir_edge.memory import UNREACHABLE, Codes, Entry, Memory
from memoir_edge.memory import Router as Bound
from memoir_edge.router.encoder import Encoder
from memoir_edge_exporter import export
from memoir_edge_runtime import Options, Prompt, Router, Routing, Row, Session, recorded, replay

ASKED = ["the capital of France is", "the currency of Japan is", "who leads the city", "what river"]
GUARDS = ["the capital of Japan is"]
OTHER = "where is it?"
Coded = Callable[..., Memory]


@pytest.fixture(scope="module")
def routed_dir(
    model_dir: Path, encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny model, exported with a tiny encoder."""
    out = tmp_path_factory.mktemp("routed") / "onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, while tracing
        export(model=model_dir, out=out, site="model.layers.1.mlp.down_proj",
               encoder=str(encoder_dir), precision="fp32")  # fmt: skip
    return out


@pytest.fixture(scope="module")
def opened(routed_dir: Path) -> Session:
    return Session(routed_dir, threads=1)


@pytest.fixture
def routed(opened: Session) -> Session:
    """The shared session with no memory in it."""
    opened.swap(None)
    return opened


@pytest.fixture(scope="module")
def encoder(encoder_dir: Path) -> Encoder:
    return Encoder(str(encoder_dir))


@pytest.fixture(scope="module")
def coded(encoder: Encoder, make_memory: Callable[..., Memory]) -> Coded:
    """A memory with a random Wm whose keys are the codes of the given texts."""

    def make(
        asked: Sequence[str] = ASKED,
        guards: Sequence[str] = GUARDS,
        *,
        threshold: float = 0.97,
        texts: bool = True,
        **changes: object,
    ) -> Memory:
        made = make_memory([f"edit {i}" for i in range(len(asked))], **changes)
        E, keys = len(asked), [*asked, *guards]
        codes = Codes(
            router=Bound("encoder", encoder.digest, encoder.bits, encoder.weight),
            keys=encoder.codes(keys),
            owner=np.array([*range(E), *[-1] * len(guards)], np.int32),
            thresholds=np.full(len(keys), threshold, np.float32),
            texts=tuple(keys) if texts else (),
        )
        return replace(made, thresholds=np.full(E, UNREACHABLE, np.float32), codes=codes)

    return make


def test_a_prompt_reaches_its_edit_and_the_answer_is_the_memorys(routed, coded, oracle) -> None:
    memory = coded()
    routed.swap(memory)
    results = routed.generate([*ASKED, *GUARDS, OTHER], Options(max_new_tokens=6))
    assert [r.fired for r in results] == [*(f"edit-{i}" for i in range(4)), None, None]
    for row, result in enumerate(results):
        ids = routed.prompt(result.prompt).row.ids
        recalled = row if result.fired else -1
        out: list[int] = []
        while len(out) < 6 and 1 not in out:
            out.append(int(oracle.logits([*ids, *out], memory, recalled)[-1].argmax()))
        assert result.ids == tuple(out)


def test_a_typo_does_not_hide_an_edit(routed, coded) -> None:
    routed.swap(coded())
    typed = ["the captial of France is", "the currancy of Japan is", "the captial of Japan is"]
    assert [r.edit for r in routed.route(typed)] == ["edit-0", "edit-1", None]  # the last: a guard
    as_typed, meant = routed.router.read([typed[0], ASKED[0]])
    assert (as_typed.f != meant.f).any()


def test_a_typo_in_a_name_is_put_right_by_the_memory_that_knows_it(routed, coded) -> None:
    asked = ["the capital of Lyonesse is"]
    typed = ["the capital of Lyonsese is", "thecapital o fLyonesse is"]
    routed.swap(coded(asked))
    assert [r.edit for r in routed.route(typed)] == ["edit-0"] * 2
    for other in (coded(), coded(asked, texts=False)):
        routed.swap(other)
        assert [r.edit for r in routed.route(typed)] == [None] * 2


def test_routing_says_what_decided(routed, coded) -> None:
    generation = routed.swap(coded())
    reached, guarded, near = routed.route([ASKED[1], GUARDS[0], OTHER])
    said = {"threshold": pytest.approx(0.97), "digest": generation.digest}
    assert reached == Routing("edit-1", 1.0, candidate="edit-1", key=ASKED[1], **said)
    assert guarded == Routing(None, 1.0, candidate=None, guard=True, key=GUARDS[0], **said)
    assert near.edit is None
    assert near.overlap < 0.97
    routed.swap(coded(texts=False))
    [withheld] = routed.route(ASKED[1])
    assert (withheld.edit, withheld.key) == ("edit-1", None)


def test_every_way_of_asking_is_routed_alike(routed, coded) -> None:
    routed.swap(coded())
    asked = [*ASKED, *GUARDS, OTHER]
    wanted = routed.route(asked)
    assert [r.routing for r in routed.generate(asked, Options(max_new_tokens=2))] == wanted
    assert [f.routing for f in routed.teacher_forced(asked, ["Paris"] * len(asked))] == wanted
    streamed = {
        e.row: e.routing
        for e in routed.stream(asked, Options(max_new_tokens=2))
        if hasattr(e, "routing")
    }
    assert [streamed[i] for i in range(len(asked))] == wanted
    ids = [Prompt("", routed.prompt(text).row) for text in asked]
    assert [r.edit for r in routed.route(ids)] == [r.edit for r in wanted]
    for text, one in zip(asked, wanted, strict=True):  # whatever else is in the batch
        assert routed.route(text) == [replace(one, overlap=pytest.approx(one.overlap, abs=0.01))]


def test_in_a_chat_the_last_user_message_is_routed(routed, coded) -> None:
    routed.swap(coded())
    chat = [
        {"role": "system", "content": "who leads the city"},
        {"role": "user", "content": ASKED[0]},
        {"role": "assistant", "content": "Paris"},
        {"role": "user", "content": f" {ASKED[1]} "},
    ]
    prompt = routed.chat_prompt(chat)
    assert prompt.asked == ASKED[1]
    assert [r.edit for r in routed.route(prompt)] == ["edit-1"]
    rendered = f"<|im_start|>user\nHi!<|im_end|>\n<|im_start|>user\n{ASKED[1]}<|im_end|>\n"
    [found] = routed.route(rendered)  # by a client
    assert (found.edit, found.overlap) == ("edit-1", 1.0)
    ids = Prompt("", routed.prompt(rendered).row)
    assert routed.route(ids)[0].edit == "edit-1"
    nobody = routed.chat_prompt([{"role": "system", "content": "the city"}])
    assert nobody.asked == nobody.text


@pytest.mark.parametrize(
    ("system", "said", "edit"),
    [
        ("be short", "And Spain?", None),
        ("be short", "Why?", None),
        (ASKED[1], "Thanks!", None),
        (ASKED[1], ASKED[2], "edit-2"),
    ],
)
def test_a_chat_as_token_ids_is_routed_as_its_text(
    routed, coded, monkeypatch: pytest.MonkeyPatch, system: str, said: str, edit: str | None
) -> None:
    routed.swap(coded())
    language = routed.language
    core = type(language.tokenizer.core).from_str(language.tokenizer.core.to_str())
    core.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = replace(language.tokenizer, core=core)
    monkeypatch.setattr(routed, "language", replace(language, tokenizer=tokenizer))
    monkeypatch.setattr(routed, "_vocabulary", core.get_vocab_size())
    turns = [("system", system), ("user", ASKED[0]), ("assistant", "Paris"), ("user", said)]
    text = "".join(f"<|im_start|>{who}\n{what}<|im_end|>\n" for who, what in turns)
    ids = routed.token_prompt(tokenizer.encode(text))
    assert "<|im_start|>" not in ids.text
    by_text, by_ids = routed.route([text, ids])
    assert by_text == by_ids
    assert by_ids.edit == edit


def test_codes_and_activations_may_take_turns(routed, coded, make_memory, prompts) -> None:
    plain, by_codes = make_memory(prompts[:4]), coded()
    asked = [prompts[0], ASKED[0]]
    for memory, fired in (
        (plain, ["edit-0", None]), (by_codes, [None, "edit-0"]), (None, [None, None]),
        (by_codes, [None, "edit-0"]), (plain, ["edit-0", None]),
    ):  # fmt: skip
        routed.swap(memory)
        assert [r.edit for r in routed.route(asked)] == fired
        assert [r.fired for r in routed.generate(asked, Options(max_new_tokens=1))] == fired


def test_one_run_of_the_encoder_serves_several_memories(
    routed, coded, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    read = Router._run
    monkeypatch.setattr(Router, "_run", lambda self, t: runs.extend(t) or read(self, t))
    loaded = [routed.load(coded(asked)) for asked in (ASKED[:2], ASKED[2:], ASKED[::-1])]
    text = "who leads the city"
    found = [routed.route([text, text], memory=generation) for generation in loaded]
    assert [[r.edit for r in some] for some in found] == [
        [None] * 2,
        ["edit-0"] * 2,
        ["edit-1"] * 2,
    ]
    assert runs.count(text) <= 1  # an earlier test may have asked it


def test_a_memory_with_guards_alone_or_without_keys_is_the_base_model(routed, coded) -> None:
    base = routed.generate(ASKED, Options(max_new_tokens=4))
    for memory in (coded((), GUARDS), coded((), ())):
        routed.swap(memory)
        results = routed.generate(ASKED, Options(max_new_tokens=4))
        assert [r.ids for r in results] == [r.ids for r in base]
        assert [r.fired for r in results] == [None] * len(ASKED)


def test_a_large_bank_is_searched_as_a_small_one(routed, coded, encoder) -> None:
    memory = coded()
    random = np.random.default_rng(0)
    K = 70_000  # above the size from which an index is made
    signs = random.integers(0, 2, (K, encoder.weight)) > 0
    keys = np.concatenate([tophash.pack(np.hstack([signs, ~signs])), memory.codes.keys])
    owner = np.concatenate([np.full(K, -1, np.int32), memory.codes.owner])
    many = replace(
        memory.codes, keys=keys, owner=owner, texts=(),
        thresholds=np.full(len(keys), 0.97, np.float32),
    )  # fmt: skip
    routed.swap(replace(memory, codes=many))
    assert [r.edit for r in routed.route(ASKED)] == [f"edit-{i}" for i in range(4)]


def test_a_coded_memory_is_verified_like_any(routed, coded) -> None:
    memory = coded()
    edits = tuple(
        Entry(e.id, e.row, {"prompt": text, "target": "?"})
        for e, text in zip(memory.edits, ASKED, strict=True)
    )
    generation = routed.load(replace(memory, edits=edits))
    [outcomes] = replay(routed, generation, recorded(generation.memory))
    assert [o.result.fired for o in outcomes] == [f"edit-{i}" for i in range(4)]


def test_a_prompt_that_is_too_long_is_routed_by_its_last_part(routed, coded) -> None:
    routed.swap(coded([*ASKED, "x " * 18 + ASKED[0]]))
    long, short = routed.route(["y " * 5 + "x " * 18 + ASKED[0], ASKED[0]])
    assert (long.edit, long.overlap, long.cut) == ("edit-4", 1.0, True)
    assert (short.edit, short.cut) == ("edit-0", False)


def test_what_is_asked_may_stand_behind_other_text(routed, coded) -> None:
    routed.swap(coded())
    said = f"It rained all day. {ASKED[1]}"
    guarded = f"It rained all day. {GUARDS[0]}"
    found = routed.route([said, ASKED[0], guarded])
    assert [(r.edit, r.guard) for r in found] == [
        ("edit-1", False),
        ("edit-0", False),
        (None, True),
    ]
    assert found[0].overlap == pytest.approx(1.0, abs=0.01)
    assert [r.fired for r in routed.generate([said, guarded], Options(max_new_tokens=1))] == [
        "edit-1",
        None,
    ]


# --- What is refused -----------------------------------------------------------------------------


def test_a_coded_memory_needs_a_router(session, coded) -> None:
    with pytest.raises(MismatchError, match="the export has no router") as caught:
        session.load(coded())
    assert "--encoder" in caught.value.hint
    assert session.generation is session.base


def test_a_memory_of_another_router_is_refused_by_name(routed, coded) -> None:
    memory = coded()
    other = replace(memory.codes, router=memory.codes.router._replace(digest="ab" * 32))
    with pytest.raises(MismatchError) as caught:
        routed.swap(replace(memory, codes=other))
    for digest in ("ab" * 8, routed.sidecar.router.digest[:16]):
        assert digest in str(caught.value)
    assert routed.generation is routed.base


@pytest.mark.parametrize("text", ["", "  \n "])
def test_an_empty_prompt(routed, text: str) -> None:
    for ask in (
        lambda: routed.route(text),
        lambda: routed.teacher_forced([text], ["Paris"]),
        lambda: routed.route(Prompt(text, Row(routed.prompt("a").row.ids[:1]))),
    ):
        with pytest.raises(InputError, match="the prompt is empty"):
            ask()


@pytest.mark.parametrize("name", ["router.onnx", "route.onnx", "tokenizer.json"])
def test_a_router_with_a_file_missing(routed_dir: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "onnx"
    shutil.copytree(routed_dir, folder)
    (folder / "router" / name).unlink()
    with pytest.raises((GraphError, InputError), match=name) as caught:
        Session(folder)
    assert "--encoder" in caught.value.hint


def test_a_file_on_disk_comes_back_routed_the_same(routed, coded, tmp_path: Path) -> None:
    written = memories.write(coded(), tmp_path / "m.safetensors")
    generation = routed.swap(tmp_path / "m.safetensors")
    assert generation.digest == written.digest
    assert [r.edit for r in routed.route(ASKED)] == [f"edit-{i}" for i in range(4)]


def test_an_export_of_an_earlier_version_has_no_router(export_dir: Path) -> None:
    assert "router" not in json.loads((export_dir / sidecar.NAME).read_text())
    assert sidecar.read(export_dir).router is None


# --- Tiles of columns ----------------------------------------------------------------------------


def tiled(memory: Memory) -> Memory:
    """Each mask reads a tile of its own, whose columns are those of the memory times its place."""
    E = len(memory.bank)
    Wm = np.concatenate([memories.to_dense(memory) * (tile + 1) for tile in range(E)], axis=1)
    tile = np.arange(E, dtype=np.int32)
    columns, values = memories.sparse(Wm, memory.bank, memory.D, tile)
    return replace(memory, columns=columns, values=values, tile=tile)


@pytest.mark.parametrize("native", [True, False])
def test_each_edit_answers_from_its_own_tile(routed_dir, coded, oracle, native: bool) -> None:
    """In one batch, as the oracle answers with that tile's columns alone."""
    session, memory = Session(routed_dir, threads=1, native=native), coded()
    session.swap(tiled(memory))
    results = session.generate([*ASKED, OTHER], Options(max_new_tokens=6))
    assert [r.fired for r in results] == [*(f"edit-{i}" for i in range(4)), None]
    for row, result in enumerate(results):
        ids = session.prompt(result.prompt).row.ids
        own = replace(memory, values=memory.values_f32() * (row + 1))
        out: list[int] = []
        while len(out) < 6 and 1 not in out:
            recalled = row if result.fired else -1
            out.append(int(oracle.logits([*ids, *out], own, recalled)[-1].argmax()))
        assert result.ids == tuple(out)


def test_an_export_of_an_earlier_version_takes_one_tile(
    routed_dir: Path, coded, tmp_path: Path
) -> None:
    folder = shutil.copytree(routed_dir, tmp_path / "onnx")
    model = onnx.load(folder / "model.onnx")
    model.graph.input.remove(next(v for v in model.graph.input if v.name == "memory.tile"))
    onnx.save(model, folder / "model.onnx")
    session = Session(folder, threads=1)
    session.swap(coded())
    assert [r.edit for r in session.route(ASKED)] == [f"edit-{i}" for i in range(4)]
    with pytest.raises(MismatchError, match="has 4 tiles of columns, the graph takes one") as found:
        session.swap(tiled(coded()))
    assert "export the model again" in str(found.value.hint)
    assert session.generation.memory.tiles == 1  # type: ignore[union-attr]
