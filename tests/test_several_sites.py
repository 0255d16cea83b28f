"""Memories of several sites, from the editor to a server: all that holds of one site holds of them.

The demo model, real facts, real edits: two and three late layers by activations, and two by a
router's codes, in several tiles. Function bodies and native ops.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from starlette.testclient import TestClient

from memoir_edge import ports, sidecar
from memoir_edge.answers import Answer
from memoir_edge.cli import main
from memoir_edge.cli.sessions import OnnxModel
from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import load_facts, model_dir, prompt
from memoir_edge.editor import BaseModel, Edited, Editor, Wishes, choose, edited, load
from memoir_edge.editor.layer import all_changed
from memoir_edge.editor.model import collate
from memoir_edge.errors import InputError, MismatchError, SiteError
from memoir_edge.history import Deleted, Journal, begin, path_of
from memoir_edge.history import load as load_journal
from memoir_edge.memory import Memory, from_bytes, to_bytes, to_dense, write
from memoir_edge.router import Encoder
from memoir_edge_exporter import (
    export,
    package_genai,
    package_optimum,
    package_triton,
    package_web,
)
from memoir_edge_runtime import Options, Session, recorded, replay
from memoir_edge_runtime.serve.app import create_app
from memoir_edge_runtime.serve.server import Server
from memoir_edge_runtime.serve.settings import Settings

ROOM = 12
EDITS = sample(8)
TWO, THREE = ("5", "7"), ("5", "6", "7")
WAYS = {"two": TWO, "three": THREE, "two, by codes": TWO}


def site(blocks: Sequence[str]) -> str:
    """What `--site` is given."""
    return ",".join(f"model.layers.{block}.mlp.down_proj" for block in blocks)


@dataclass(frozen=True)
class Case:
    """A memory of some sites, in torch and on a graph."""

    editor: Editor
    memory: Memory
    folder: Path
    session: Session  # native, where that was built
    bodies: Session
    router: Encoder | None

    def edited(self) -> Edited:
        return edited(self.editor.base, self.memory, self.router)


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load(str(model_dir()), device="cpu")


@pytest.fixture(scope="module", params=WAYS)
def case(
    request: pytest.FixtureRequest,
    base: BaseModel,
    encoder_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    sites = site(WAYS[request.param])
    router = Encoder(str(encoder_dir)) if "codes" in request.param else None
    settings = choose(base, Wishes(site=sites, false_fires=0), coded=router is not None)
    if router:  # with two edits in the tiles of a mask, so that there are more; and few rows
        few = {"forms": 1, "chats": 0, "thinned": 1, "thinned_forms": 0, "asked": 0}
        settings = replace(settings, columns_per_edit=768, **few)
    editor = Editor(base, settings, router=router)
    outcomes = editor.apply(EDITS)
    assert [o.edit.id for o in outcomes if not o.took] == []
    folder = tmp_path_factory.mktemp("sites") / "onnx"
    export(
        model=model_dir(), out=folder, site=sites, precision="fp32",
        encoder=str(encoder_dir) if router else None,
    )  # fmt: skip
    memory = from_bytes(to_bytes(editor.memory()))
    sessions = [Session(folder, memory=memory, native=native) for native in (True, False)]
    return Case(editor, memory, folder, *sessions, router)


def prompts() -> list[str]:
    """Everything the edits ask, and facts from all over: edited and not, in all phrasings."""
    asked = [text for e in EDITS for text in (e.prompt, *e.rephrase, *e.hard_negatives)]
    others = [prompt(fact, i % 8) for i, fact in enumerate(load_facts()[::12])]
    return list(dict.fromkeys([*asked, *others]))


def same(ours: Sequence[Answer], theirs: Sequence[Answer]) -> None:
    assert [a.text for a in ours] == [a.text for a in theirs]
    assert [a.edit for a in ours] == [a.edit for a in theirs]


# --- What an edit is -----------------------------------------------------------------------------


def test_each_site_is_changed_in_its_own_tile_by_the_same_features(case: Case) -> None:
    memory, S = case.memory, len(case.memory.sites)
    assert memory.sites == tuple(site(WAYS["three" if S == 3 else "two"]).split(","))
    assert memory.tiles == (4 * S if case.router else S)
    Wm = to_dense(memory)
    moved = [Wm[:, t * memory.D : (t + 1) * memory.D].any() for t in range(memory.tiles)]
    assert all(moved)
    assert np.array_equal(case.editor.live.Wm.numpy(), Wm)  # what was trained is what is stored
    for entry in memory.edits:
        columns = memory.reads(entry.row).reshape(S, memory.k)
        assert ((columns % memory.D) == (columns[0] % memory.D)).all()
        assert (columns // memory.D == columns[0, 0] // memory.D + np.arange(S)[:, None]).all()


def test_torch_and_onnx_say_the_same(case: Case) -> None:
    """Same tokens, same edit, overlaps to 1e-3 (invariant 2); function bodies and native."""
    asked = prompts()
    assert len(asked) >= 200
    theirs = case.edited().answer(asked, ROOM, memory=True)
    for session in (case.session, case.bodies):
        ours = OnnxModel(session).answer(asked, ROOM, memory=True)
        same(ours, theirs)
        overlaps = np.subtract([a.overlap for a in ours], [a.overlap for a in theirs])
        assert np.abs(overlaps).max() <= 1e-3
    assert sum(a.edit is not None for a in theirs) >= len(EDITS)
    assert case.bodies.ops == "function bodies"


def test_teacher_forcing_agrees(case: Case) -> None:
    asked, targets = [e.prompt for e in EDITS], [e.target for e in EDITS]
    theirs = case.edited().forced(asked, targets, memory=True)
    assert OnnxModel(case.session).forced(asked, targets, memory=True) == theirs


def test_route_minus_one_is_the_empty_memory_bit_for_bit(case: Case) -> None:
    """In the graph and in torch, in a batch beside a row that an edit answers."""
    ids = np.array([[5, 6, 7], [8, 9, 10]])
    for native in (True, False):
        graph = Session(case.folder, native=native).decoder._graph
        feeds: dict[str, Any] = {
            "input_ids": ids, "attention_mask": np.ones_like(ids),
            "position_ids": np.arange(3)[None].repeat(2, axis=0),
        }  # fmt: skip
        for given in graph.get_inputs():
            if given.name.startswith("past_key_values"):
                shape = [2, given.shape[1], 0, given.shape[3]]
                feeds[given.name] = np.zeros(shape, np.float32)
        empty = graph.run(["logits"], feeds)[0]
        held = feeds | ports.feeds(case.memory)
        route = {"memory.route": np.array([-1, 1])}
        found = graph.run(["logits"], held | route)[0]
        assert np.array_equal(found[0], empty[0])
        assert not np.array_equal(found[1], empty[1])
    net, model = case.editor.base.net, case.edited()
    batch = collate(case.editor.base, ids.tolist(), side="right")
    routes = model.routes([EDITS[0].prompt, "Nothing of the kind"])
    assert (routes.route > 0).tolist() == [True, False]
    with torch.no_grad():
        plain = net(**batch, use_cache=False).logits
        with model._recall(routes, [0, 1]):
            beside = net(**batch, use_cache=False).logits
        with all_changed([model.site, *model.later], lambda _number, _a: None):
            nothing = net(**batch, use_cache=False).logits
    assert torch.equal(beside[1], plain[1])
    assert torch.equal(nothing, plain)
    assert not torch.equal(beside[0], plain[0])


def test_the_base_model_is_back_without_the_memory(case: Case) -> None:
    asked, session = prompts()[:20], case.session
    never = session.generate(asked, Options(ROOM), memory=session.base)
    session.swap(None)
    assert [r.ids for r in session.generate(asked, Options(ROOM))] == [r.ids for r in never]
    session.swap(case.memory)
    now = session.generate([e.prompt for e in EDITS], Options(ROOM))
    assert [r.fired for r in now] == [e.id for e in EDITS]


def test_every_edit_is_replayed_on_the_graph(case: Case) -> None:
    cases = recorded(case.memory)
    found = [o for part in replay(case.bodies, case.bodies.generation, cases) for o in part]
    assert len(found) >= len(EDITS)
    assert all(one.held for one in found)


# --- What does not fit ---------------------------------------------------------------------------


def test_a_memory_of_other_sites_is_refused(case: Case) -> None:
    first, *later = case.memory.sites
    one = replace(case.memory, later=(), tile=None, columns=case.memory.columns[:0],
                  values=case.memory.values[:0])  # fmt: skip
    other = replace(case.memory, site=later[-1], later=(first, *later[:-1]))
    for wrong in (one, other):
        before = case.session.generation
        with pytest.raises(MismatchError, match=r"the memory's sites? .* the graph's sites are"):
            case.session.swap(wrong)
        assert case.session.generation is before
    made = sidecar.read(case.folder)
    alone = replace(made, later=())
    with pytest.raises(MismatchError, match=f"the graph's site is {first}") as caught:
        sidecar.check_fit(case.memory, alone)
    assert f"--site {','.join(case.memory.sites)}" in str(caught.value.hint)
    with pytest.raises(SiteError, match="in the model's order"):
        edited(case.editor.base, other, case.router)


@pytest.mark.parametrize(
    ("wishes", "error", "said"),
    [
        (Wishes(site=site(["5", "7"]), parity=True), InputError, "trained by adam alone"),
        (Wishes(site="model.layers.5.mlp.down_proj,model.layers.7.mlp.up_proj"), SiteError,
         r"down_proj is 768 to 192, model.layers.7.mlp.up_proj is 192 to 768"),
        (Wishes(site="model.layers.5.mlp.down_proj,model.layers.9.mlp.down_proj"), SiteError,
         r"model.layers.9.mlp.down_proj' names nothing"),
    ],
)  # fmt: skip
def test_sites_that_do_not_go_together(
    base: BaseModel, wishes: Wishes, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        choose(base, wishes)


def test_sites_are_put_into_the_models_order_each_once(base: BaseModel) -> None:
    settings = choose(base, Wishes(site=site(["7", "5", "7"])))
    assert settings.sites == tuple(site(["5", "7"]).split(","))
    assert settings.optimiser == "adam"
    with pytest.raises(MismatchError, match="site is"):
        Editor(base, settings, Editor(base, choose(base, Wishes(site=site(["5"])))).memory())
    with pytest.raises(SiteError, match="in the model's order"):
        Editor(base, replace(settings, site=settings.later[0], later=(settings.site,)))


# --- The graph -----------------------------------------------------------------------------------


def test_the_graph_has_one_route_and_a_recall_at_each_site(case: Case) -> None:
    graph = onnx.load(case.folder / "model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    S = len(case.memory.sites)
    ours = [node.op_type for node in graph.graph.node if node.domain == ports.DOMAIN]
    assert ours == ["Route", *["Recall"] * S]
    tiles = [n.input[5] for n in graph.graph.node if n.op_type == "Recall"]
    assert tiles == ["memory.tile", *(f"memory/tile.{s}" for s in range(1, S))]
    names = [node.name for node in graph.graph.node if node.name]
    assert len(names) == len(set(names))
    said = {entry.key: entry.value for entry in graph.metadata_props}
    assert said["memoir_edge.site"] == ",".join(case.memory.sites)
    made = json.loads((case.folder / "memoir_edge.json").read_text())
    assert (made["site"], made["sites"]) == (case.memory.site, list(case.memory.sites))
    assert made["ports"] == 2  # an earlier version must not feed it a memory of one site
    assert sidecar.read(case.folder).sites == case.memory.sites


def test_given_sites_are_put_into_the_graphs_order(tmp_path: Path) -> None:
    graph = tmp_path / "graph"
    with pytest.raises(SiteError, match="the same widths"):
        export(model=model_dir(), out=graph, site="layers.5.mlp.down_proj,layers.6.mlp.up_proj")
    assert not graph.exists()
    made = export(
        model=model_dir(), out=graph, site="layers.7.mlp.down_proj, layers.5.mlp.down_proj"
    )
    assert made.sidecar.sites == tuple(site(["5", "7"]).split(","))


# --- Journals ------------------------------------------------------------------------------------


class Stopped(Exception):  # noqa: N818 - as if the process had been killed
    """After some events."""


def run(base: BaseModel, case: Case, journal: Journal, events: int | None = None) -> None:
    """Make and settle three edits, as `apply` does; or stop after so many events."""
    editor = Editor(base, case.editor.settings, journal=journal, router=case.router)
    record = journal.append

    def append(*given: Any) -> Any:
        if events is not None and len(journal.frames) > events:
            raise Stopped
        return record(*given)

    journal.append = append  # type: ignore[method-assign]
    held = editor.live.bank.records
    editor.apply([edit for edit in EDITS[:3] if edit.id not in held])


def test_a_run_cut_anywhere_ends_with_the_same_memory(
    base: BaseModel, case: Case, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    empty = case.editor.journal.origin
    with begin(path_of(whole), empty, {}) as journal:
        run(base, case, journal)
        journal.write(whole)
        count = len(journal.frames)
    for events in sorted({2, count - 4, count - 2}):
        out = tmp_path / str(events)
        with begin(path_of(out), empty, {}) as journal, suppress(Stopped):
            run(base, case, journal, events)
        with load_journal(path_of(out), write=True) as journal:  # type: ignore[union-attr]
            assert 1 < len(journal.frames) <= events + 1
            run(base, case, journal)
            journal.write(out)
        assert out.read_bytes() == whole.read_bytes()


def test_a_deletion_is_exact_at_every_site(base: BaseModel, case: Case) -> None:
    journal = case.editor.journal.copied()
    first, *others = (edit.id for edit in EDITS)
    before = journal.compile()
    journal.record(Deleted([first]))
    after = journal.compile()
    assert [entry.id for entry in after.edits] == others
    alone = case.editor.journal.copied()
    alone.record(Deleted(others))
    total = sum(np.pad(to_dense(m), ((0, 0), (0, before.tiles * before.D - m.tiles * m.D)))
                for m in (after, alone.compile()))  # fmt: skip
    assert np.allclose(total, to_dense(before), atol=1e-5)
    journal.record(Deleted(others))
    nothing = journal.compile()
    assert (len(nothing.columns), nothing.tiles) == (0, len(nothing.sites))
    assert from_bytes(to_bytes(nothing)).sites == before.sites


# --- Commands and a server -----------------------------------------------------------------------


def test_commands_from_apply_to_a_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edits, memory, graph = (tmp_path / name for name in ("e.jsonl", "m.safetensors", "onnx"))
    edits.write_text("\n".join(json.dumps(edit.full_record()) for edit in EDITS[:2]))
    sites = ["--site", site(TWO)]

    def does(*words: object) -> dict[str, Any]:
        assert main([*map(str, words), "--json"]) == 0
        return dict(json.loads(capsys.readouterr().out))

    model = ["--model", model_dir()]
    assert does("apply", edits, *model, "--out", memory, *sites)["settings"]["sites"] == list(
        site(TWO).split(",")
    )
    assert does("apply", edits, *model, "--out", memory)["skipped"] == 2  # the sites are known
    assert does("export", *model, "--out", graph, *sites)["sites"] == site(TWO).split(",")
    said = does("generate", graph, "--prompt", EDITS[0].prompt, "--memory", memory)
    assert said["edit"] == EDITS[0].id
    does("verify", graph, "--memory", memory)
    assert does("inspect", memory)["sites"] == site(TWO).split(",")
    does("delete", memory, EDITS[1].id)
    server = Server(Session(graph), Settings(memory_roots=(tmp_path,)))
    with TestClient(create_app(server)) as client:
        server.memories.load(memory, name="facts")
        wanted = {
            "prompt": EDITS[0].prompt,
            "max_tokens": ROOM,
            "temperature": 0,
            "model": "base@facts",
        }
        reply = client.post("/v1/completions", json=wanted).json()
    assert reply["memory"]["edit"] == EDITS[0].id
    assert reply["choices"][0]["text"].strip() == EDITS[0].target


# --- Packages ------------------------------------------------------------------------------------


def test_packages_of_other_hosts_answer_alike(case: Case, tmp_path: Path) -> None:
    """What runs without a router of ours; a memory of one site is refused by all."""
    facts, wrong = tmp_path / "facts.safetensors", tmp_path / "wrong.safetensors"
    write(case.memory, facts)
    write(replace(case.memory, later=("elsewhere", *case.memory.later[1:])), wrong)
    makers = {
        "genai": lambda held: package_genai(case.folder, tmp_path / "genai", memory=[held]),
        "web": lambda held: package_web([case.folder], tmp_path / "web", held=[held]),
    }
    if case.router is None:
        makers |= {
            "optimum": lambda held: package_optimum(case.folder, tmp_path / "optimum", held),
            "triton": lambda held: package_triton(case.folder, tmp_path / "triton", memory=held),
        }
    for make in makers.values():
        with pytest.raises(MismatchError, match="the memory's sites are"):
            make(wrong)
        make(facts)
    assert sidecar.read(tmp_path / "web").sites == case.memory.sites
    asked = [edit.prompt for edit in EDITS]
    expected = [r.ids for r in case.session.generate(asked, Options(ROOM))]
    packed = Session(tmp_path / "genai", memory=facts)
    assert [r.ids for r in packed.generate(asked, Options(ROOM))] == expected
    if case.router is None:  # what holds its memory answers without being fed one
        for folder in (tmp_path / "optimum" / "onnx", tmp_path / "triton" / "onnx" / "1"):
            held = onnxruntime.InferenceSession(folder / "model.onnx")
            said = [first(held, case.editor.base.encode(text)) for text in asked]
            assert said == [ids[0] for ids in expected]


def first(graph: onnxruntime.InferenceSession, ids: list[int]) -> int:
    """The first token of an answer."""
    feeds: dict[str, Any] = {
        "input_ids": np.array([ids]),
        "attention_mask": np.ones((1, len(ids)), int),
    }
    feeds["position_ids"] = np.arange(len(ids))[None]
    for given in graph.get_inputs():
        if given.name.startswith("past_key_values"):
            feeds[given.name] = np.zeros([1, given.shape[1], 0, given.shape[3]], np.float32)
    return int(graph.run(["logits"], feeds)[0][0, -1].argmax())
