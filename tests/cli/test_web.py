"""`package web` and the npm package in js/, under node and in a headless Chromium.

Its tests run where node, npm and their packages are to be had; a lock file pins those, and they are
kept in the cache folder. What they expect is what `Session` answers.
"""

import base64
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from memoir_edge import __version__, ports, sidecar, tophash
from memoir_edge import memory as memories
from memoir_edge.demo.edits import showcase
from memoir_edge.errors import MemoryFormatError
from memoir_edge.memory import Base, Codes, Entry, Memory, Probe
from memoir_edge.memory import Router as Bound
from memoir_edge.router.encoder import Encoder
from memoir_edge.spelling import Spelling
from memoir_edge_exporter import export_router, package_web
from memoir_edge_runtime import Options, Prompt, Session

JS = Path(__file__).parents[2] / "js"
TOKENS = 8
EDITS = showcase()[:3]  # those of the memory in `done`


@pytest.fixture(scope="module")
def javascript(tool: Callable[[str], ModuleType]) -> ModuleType:
    """tools/javascript.py as a module."""
    return tool("javascript")


@pytest.fixture(scope="module")
def project(javascript: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """js/ beside its packages; skips where they are not to be had."""
    try:
        return javascript.project(tmp_path_factory.mktemp("project"))
    except javascript.UnavailableError as error:
        pytest.skip(str(error))


def node(project: Path, test: str, cases: Path, **environment: str) -> None:
    ended = subprocess.run(
        ["node", "--test", f"test/{test}"],
        cwd=project,
        env=os.environ | {"MEMOIR_EDGE_CASES": str(cases)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    print(ended.stdout, ended.stderr)
    assert ended.returncode == 0


# --- What the tests of js/ are given -------------------------------------------------------------


def spelled() -> dict[str, Any]:
    """Mistyped texts, and what is read of them."""
    vocabulary = {word: i for i, word in enumerate(["the", "of", "is", "capital", "cote", "##s"])}
    keys = ["The capital of Lyonesse is", "Who insures the TerraScale?", "the terrascale, Cotte"]
    respell, dice = Spelling(vocabulary).knowing(keys), random.Random(0)
    typed = keys.copy()
    for _ in range(200):
        text = dice.choice([*keys, *typed])
        i = dice.randrange(1, len(text) - 1)
        before, behind = text[:i], text[i + 1 :]
        slips = ["", text[i] * 2, "x", "é", " ", text[i] + " "]
        typed += [before + dice.choice(slips) + behind, before + behind[0] + text[i] + behind[1:]]
    meant = [respell(text) for text in typed]
    return {"vocabulary": vocabulary, "keys": keys, "typed": typed, "meant": meant}


def value_types(memory: Memory) -> Iterator[tuple[str, Memory]]:
    """The memory with its values in each type that a file may have."""
    values = memory.values_f32()
    scales = np.abs(values).max(axis=1) / 127
    yield "facts.safetensors", memory
    yield "f16.safetensors", replace(memory, values=values.astype(np.float16))
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    yield "bf16.safetensors", replace(memory, values=bits)
    eight = np.round(values / scales[:, None]).astype(np.int8)
    yield "int8.safetensors", replace(memory, values=eight, scales=scales)


def fed(memory: Memory) -> dict[str, Any]:
    return {
        name: {
            "type": array.dtype.name,
            "dims": list(array.shape),
            "bytes": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(),
        }
        for name, array in ports.feeds(memory).items()
    }


def answered(session: Session, prompt: str | Prompt) -> dict[str, Any]:
    [result] = session.generate(prompt, Options(max_new_tokens=TOKENS))
    ends = sorted(session.language.eos)
    return {"text": result.text, "edit": result.fired, "overlap": result.routing.overlap,
            "ids": list(result.ids), "ends": ends}  # fmt: skip


# The demo's, of messages that consist of parts, too, and with a variable.
TEMPLATE = """{{ bos_token }}{% if style %}{{ style }}{% endif %}{% for m in messages %}\
{% set said = m['content'] if m['content'] is string else m['content'][0]['text'] %}\
{% if m['role'] == 'user' %}Q: {{ said }} A:{% else %} {{ said }}
{% endif %}{% endfor %}"""


def conversations() -> list[list[dict[str, Any]]]:
    """Chats whose last user message is found, and others."""

    def turn(content: object, role: str = "user") -> dict[str, Any]:
        return {"role": role, "content": content}

    first, asked = EDITS[1].prompt, EDITS[0].rephrase[3]
    before = [turn(first), turn("peso", "assistant")]
    return [
        [*before, turn(asked)],
        [turn(first), turn(asked)],
        [*before, turn(f" {asked}\n")],
        [*before, turn("")],
        [turn(asked), turn("   ")],
        [*before, turn([{"type": "text", "text": asked}])],
        [turn(asked, "system")],
    ]


def read_with_care(session: Session) -> Iterator[dict[str, Any]]:
    """Prompts of which not all that stands in them counts, and what Session answers."""
    prompt, variables = EDITS[0].prompt, {"style": "In short. "}
    within = [{"role": "user", "content": prompt.removeprefix("The ")}]  # begins within a token
    bos = session.language.tokenizer.named["bos_token"]
    for text in (prompt, f"{prompt} ", f"{prompt}   ", f"{bos}{prompt}"):
        yield {"prompt": text, "variables": {}} | answered(session, text)
    for told in ({}, variables):
        asked = session.chat_prompt(within, variables=told)
        yield {"prompt": within, "variables": told} | answered(session, asked)


def tiled(memory: Memory) -> Memory:
    """The same answers, each edit reading a tile of its own."""
    E = len(memory.edits)
    Wm = np.tile(memories.to_dense(memory), (1, E))
    tile = np.arange(E, dtype=np.int32)
    columns, values = memories.sparse(Wm, memory.bank, memory.D, tile)
    return replace(memory, columns=columns, values=values, tile=tile)


def sited(memory: Memory) -> Memory:
    """Of a second site as well, where each edit writes what it writes at the first."""
    two = np.stack([memories.to_dense(memory).reshape(memory.d, memory.tiles, -1)] * 2, axis=2)
    tile = None if memory.tile is None else 2 * memory.tile
    columns, values = memories.sparse(
        two.reshape(memory.d, -1), memory.bank, memory.D, tile, sites=2
    )
    later = ("model.layers.7.mlp.down_proj",)
    return replace(memory, columns=columns, values=values, tile=tile, later=later)


@pytest.fixture(scope="module")
def cases(
    done: Any,
    encoder_dir: Path,
    coded: Callable[[Memory, Encoder], Memory],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A packaged model with a router, memories, and what Session answers with them."""
    folder = tmp_path_factory.mktemp("cases")
    graph = shutil.copytree(done.graph, folder / "optional")
    router = export_router(str(encoder_dir), graph, precision="fp32")
    sidecar.write(graph, replace(sidecar.read(graph), router=router))
    (graph / "chat_template.jinja").write_text(TEMPLATE)
    package_web([graph], folder / "web")
    memory = memories.read(done.memory)
    by_code = coded(memory, Encoder(str(encoder_dir)))
    written = {
        name: memories.write(made, folder / name)
        for name, made in [
            *value_types(memory),
            ("coded.safetensors", by_code),
            ("tiled.safetensors", tiled(by_code)),
            ("mean.safetensors", replace(memory, feature="mean")),
            ("sited.safetensors", sited(memory)),
            ("sited-coded.safetensors", sited(tiled(by_code))),
        ]
    }
    prompts = [p for e in EDITS for p in (e.prompt, *e.rephrase[:2], *e.hard_negatives[:2])]
    session = Session(graph, threads=1)
    base = [answered(session, prompt) for prompt in prompts]
    session.swap(written["facts.safetensors"])
    edited = [answered(session, prompt) for prompt in prompts]
    asked = [session.chat_prompt(chat) for chat in conversations()]
    by_bank = [answered(session, prompt) for prompt in asked]
    with_care = []
    for name in ("facts.safetensors", "mean.safetensors"):
        session.swap(written[name])
        with_care.append({"memory": name, "asked": [*read_with_care(session)]})
    session.swap(by_code)
    by_router = [answered(session, prompt) for prompt in asked]
    said = {prompt: answered(session, prompt) for prompt in prompts}
    session.swap(written["tiled.safetensors"])
    assert {prompt: answered(session, prompt) for prompt in prompts} == said
    texts = [*prompts, "It rained all day. " + EDITS[0].prompt, "well " * 40 + EDITS[1].prompt]
    texts += [text.replace("capital", "captial") for text in prompts]
    texts += [text.replace("of ", "o f") for text in prompts]
    texts += [f"Question: {EDITS[1].prompt}\nAnswer:", "User: " + EDITS[0].prompt]
    texts += ["Hi! What is the capital of St. Ives?", "Is it Mr. Kim? The capital of the U.S. is"]
    texts += [f"<|im_start|>user\nHi! {EDITS[1].prompt}<|im_end|>\n<|im_start|>assistant\n"]
    decided = session.router.decide(texts, session.generation.keys).routes
    document = {
        "tokens": TOKENS,
        "k": memory.k,
        "prompts": [
            {"prompt": p, "ids": list(session.prompt(p).row.ids), "base": b, "edited": e}
            for p, b, e in zip(prompts, base, edited, strict=True)
        ],
        "memories": [
            {"name": name, "digest": made.digest, "ports": fed(made)}
            for name, made in written.items()
        ],
        "chats": [
            {"chat": chat, "edited": e, "coded": c}
            for chat, e, c in zip(conversations(), by_bank, by_router, strict=True)
        ],
        "withCare": with_care,
        "spelled": spelled(),
        "routed": {
            "memory": "tiled.safetensors",
            "texts": texts,
            "routes": decided.route.tolist(),
            "overlaps": decided.overlap.tolist(),
            "prompts": [{"prompt": p} | said[p] for p in prompts[:4]],
        },
    }
    assert sum(each["edit"] is not None for each in edited) >= 5
    assert {int(route) > 0 for route in decided.route} == {True, False}
    (folder / "cases.json").write_text(json.dumps(document))
    return folder


# --- Files that are no memory --------------------------------------------------------------------

D, P = 12, 20  # no multiples of 8: masks and keys have padding


def packed(bits: int, *rows: Sequence[int]) -> tophash.Bytes:
    return tophash.pack(np.array([[i in row for i in range(bits)] for row in rows]))


SMALL = Memory(
    site="layer", feature="mean", k=3, base=Base("tiny", "ab" * 32),
    columns=np.array([0, 5, 11], np.int32), values=np.ones((3, 2), np.int8),
    scales=np.ones(3, np.float32), bank=packed(D, [0, 1, 11], [0, 1, 2], [5, 6, 7], [3, 4, 5]),
    owner=np.array([0, 0, 2, -1], np.int32), thresholds=np.full(4, 0.5, np.float32),
    center=np.zeros(D, np.float32), scale=np.ones(D, np.float32),
    permutation=np.arange(D, dtype=np.int32), edits=(Entry("a", 0), Entry("b", 2)),
    probes=(Probe("p", "t", "a"), Probe("q", "u")),
)  # fmt: skip
CODES = Codes(
    router=Bound("encoder", "cd" * 32, P, 2), keys=packed(P, [0, 19], [0, 1], [4, 5], [8, 9]),
    owner=np.array([0, 0, 1, -1], np.int32), thresholds=np.ones(4, np.float32),
    texts=("p", "p'", "q", "no"),
)  # fmt: skip
KEYED = replace(
    SMALL, **memories.by_codes(SMALL.bank[[0, 2]]), edits=(Entry("a", 0), Entry("b", 1)),
    codes=CODES,
)  # fmt: skip


def changed(array: np.ndarray, at: object, value: object) -> np.ndarray:
    array = array.copy()
    array[at] = value
    return array


def coding(**changes: object) -> Memory:
    return replace(KEYED, codes=replace(CODES, **changes))


def entries(*pairs: tuple[str, int]) -> Memory:
    return replace(SMALL, edits=tuple(Entry(*pair) for pair in pairs))


FILES: dict[str, tuple[Memory, str | None]] = {
    "format 1": (SMALL, None),
    "format 2": (KEYED, None),
    "codes without texts": (coding(texts=()), None),
    "no edits": (
        replace(SMALL, edits=(), probes=(), bank=SMALL.bank[:0], owner=SMALL.owner[:0],
                thresholds=SMALL.thresholds[:0]), None,
    ),
    "a mask of more ones": (replace(SMALL, bank=changed(SMALL.bank, 3, 15)), "row 3 has 8 bits"),
    "a mask of no ones": (replace(SMALL, bank=changed(SMALL.bank, 1, 0)), "row 1 has 0 bits"),
    "a mask beyond its width": (
        replace(SMALL, bank=changed(SMALL.bank, 1, [3, 128])), "bank row 1 has bits set beyond D",
    ),
    "another k": (replace(SMALL, k=4), "expected k = 4"),
    "k of nothing": (replace(SMALL, k=0), "k is 0"),
    "a mask beside codes": (
        replace(KEYED, bank=changed(KEYED.bank, 1, [3, 16])), "masks row 1 has bits set beyond D",
    ),
    "a key of more ones": (
        coding(keys=changed(CODES.keys, 2, [7, 0, 0])), "keys row 2 has 3 bits set",
    ),
    "a key beyond its width": (
        coding(keys=changed(CODES.keys, 0, [1, 0, 16])), "keys row 0 has bits set beyond P = 20",
    ),
    "another weight": (coding(router=CODES.router._replace(weight=3)), "expected weight = 3"),
    "another router": (coding(router=CODES.router._replace(kind="other")), "known: encoder"),
    "a mask without a key": (coding(owner=np.int32([0, 0, 0, -1])), "masks row 1 owns no key"),
    "a key of no mask": (coding(owner=np.int32([0, 0, 2, 1])), "key 2 has owner 2"),
    "texts of other keys": (coding(texts=("p",)), "1 texts of 4 keys"),
    "a key of no edit": (replace(SMALL, owner=np.int32([0, 4, 2, -1])), "row 1 has owner 4"),
    "a key of a guard": (replace(SMALL, owner=np.int32([0, 3, 2, -1])), "row 1 has owner 3"),
    "an edit on a guard": (entries(("a", 0), ("b", 3)), "not on the same rows"),
    "an edit beyond all rows": (entries(("a", 0), ("b", 4)), "not on the same rows"),
    "two edits on a row": (entries(("a", 0), ("b", 0)), "not on the same rows"),
    "an edit too few": (entries(("a", 0)), "not on the same rows"),
    "two edits of one id": (entries(("a", 0), ("a", 2)), "the same id"),
    "a probe of no edit": (replace(SMALL, probes=(Probe("p", "t", "c"),)), "names edit"),
    "an edit without an id": (entries(("", 0), ("b", 2)), "has id = "),
    "a base without an id": (replace(SMALL, base=Base(None)), "has model_id = null"),  # type: ignore[arg-type]
    "no feature": (replace(SMALL, feature="toString"), "routing feature"),
    "columns of another type": (
        replace(SMALL, columns=SMALL.columns.view(np.float32)), "columns is F32, expected I32",
    ),
    "columns of no dimension": (
        replace(SMALL, columns=np.array(3, np.int32)), "columns has",
    ),
}  # fmt: skip


def resealed(data: bytes) -> bytes:
    """An altered file with the digest that it should have."""
    blank = re.sub(rb'(sha256":")[0-9a-f]{64}', rb"\g<1>" + b"0" * 64, data)
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1)


def headed(change: Callable[[bytes], bytes]) -> bytes:
    """A file with another header, which may be none."""
    data = memories.to_bytes(SMALL)
    end = 8 + int.from_bytes(data[:8], "little")
    head = change(data[8:end])
    return resealed(len(head).to_bytes(8, "little") + head + data[end:])


def saying(change: Callable[[str], str]) -> bytes:
    """A file with another document, which may be none."""

    def changed(head: bytes) -> bytes:
        header = json.loads(head)
        text = header["__metadata__"][memories.DOCUMENT_KEY]
        header["__metadata__"][memories.DOCUMENT_KEY] = change(text)
        return json.dumps(header, separators=(",", ":")).encode()

    return headed(changed)


# No writer makes these: what stands in the document's evaluation, or before the header's metadata.
EVALUATIONS: dict[str, tuple[str, str | None]] = {
    "nested so deep": ("[" * 62 + "]" * 62, None),
    "nested too deep": ("[" * 63 + "]" * 63, "levels of the document: 65"),
    "a value too deep": ("[" * 62 + "1" + "]" * 62, "levels of the document: 65"),
    "texts like keys": (r'["b:\\",":",{"c\":{":[":"]}]', None),
    "a key twice": ('1,"a":2', "twice in one object of its document"),
    "a key twice within": ('[{"b":1,"b" \n:1}]', "twice in one object of its document"),
    "a key twice, escaped": (r'{"b":1,"\u0062":2}', "twice in one object of its document"),
    "half of a pair": (r'"\ud800"', "its document holds half of a surrogate pair"),
    "a key of half a pair": (r'{"\udc00":1}', "its document holds half of a surrogate pair"),
    "a number too large": ("[-1e400]", "its document holds a number that is too large"),
    "a number that is none": ("NaN", "its document is no JSON"),
    "too long": ('"' + "a" * 2**26 + '"', "bytes of the document"),
}
HEADS: dict[str, tuple[bytes, str]] = {
    "metadata twice": (b'{"__metadata__":{},', "twice in one object of its header"),
    "a tensor twice": (b'{"values":{},', "twice in one object of its header"),
    "no UTF-8": (b'{"\xff":{},', "its header is no JSON"),
    "a byte order mark": (b"\xef\xbb\xbf{", "its header is no JSON"),
    "a tensor that is none": (b'{"more":null,', "none of a safetensors file"),
    "half of a pair in a name": (rb'{"\ud800":{},', "its header holds half of a surrogate pair"),
}

# What may not stand in the place of a tensor's entry of some name.
ENTRIES: dict[str, list[object]] = {
    "dtype": [None, 1],
    "shape": [None, 3, "3", [-3], [1.5], [[3]]],
    "data_offsets": [None, 1, [], [0], [0, 12, 12], [0, "12"], [-12, 0], {}],
}


def entered() -> Iterator[tuple[str, bytes]]:
    """Files whose header says of a tensor what no safetensors file says."""

    def other(head: bytes) -> bytes:
        header = json.loads(head)
        header["columns"] |= {name: value}
        if value is None:
            del header["columns"][name]
        return json.dumps(header, separators=(",", ":")).encode()

    for name, values in ENTRIES.items():
        for value in values:
            yield f"{name} {value}", headed(other)


METADATA = {
    "metadata that is no text": b'{"__metadata__":{"a":1,',
    "metadata of nothing": b'{"__metadata__":{"a":null,',
    "metadata of a list": b'{"__metadata__":{"a":[],',
    "metadata that are a text": b'{"__metadata__":"memoir_edge.memory","a":{',
    "metadata that are a list": b'{"__metadata__":["memoir_edge.memory"],"a":{',
}


def spoiled() -> Iterator[tuple[str, bytes, str | None]]:
    """Files whose JSON is at fault, and what is said of it."""
    for name, (evaluation, said) in EVALUATIONS.items():
        other = f'"evaluation":{{"a":{evaluation}}}'
        yield name, saying(lambda text: text.replace('"evaluation":{}', other)), said  # noqa: B023
    for name, (begin, told) in HEADS.items():
        yield name, headed(lambda head: begin + head[1:]), told  # noqa: B023
    for name, other in METADATA.items():
        made = headed(lambda head: head.replace(b'{"__metadata__":{', other))  # noqa: B023
        yield name, made, "none of a safetensors file"
    for name, made in entered():
        yield name, made, "none of a safetensors file"
    yield "a document that is none", saying(lambda text: "{"), "its document is no JSON"
    yield "a document of a list", saying(lambda text: "[]"), "is no JSON object"
    yield "more behind it", resealed(memories.to_bytes(SMALL) + bytes(8)), "fill the file"


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
def test_node_refuses_what_python_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memoir_edge.memory.file.validate", lambda memory: None)  # or none is made
    made = [(name, memories.to_bytes(memory), said) for name, (memory, said) in FILES.items()]
    made += spoiled()
    for name, data, said in made:
        (tmp_path / name).write_bytes(data)
        if said is None:
            memories.from_bytes(data)
        else:
            with pytest.raises(MemoryFormatError):
                memories.from_bytes(data)
    files = [{"name": name, "said": said} for name, _, said in made]
    (tmp_path / "cases.json").write_text(json.dumps({"tokens": TOKENS, "files": files}))
    node(JS, "memory.test.js", tmp_path)


# --- Under node and in a browser ------------------------------------------------------------------


@pytest.mark.slow
def test_under_node(project: Path, cases: Path) -> None:
    node(project, "node.test.js", cases)


@pytest.mark.slow
@pytest.mark.parametrize("held", [None, "facts.safetensors", "coded.safetensors"])
def test_the_lines_of_the_readme_answer(
    project: Path, cases: Path, tmp_path: Path, held: str | None
) -> None:
    folder, memory = tmp_path / "web", [] if held is None else [cases / held]
    package_web([cases / "optional"], folder, held=memory)
    told = (folder / "README.md").read_text(encoding="utf-8")
    code = told.split("```javascript")[1].split("```")[0].replace('"..."', f'"{EDITS[0].prompt}"')
    (project / "readme.mjs").write_text(code)
    ended = subprocess.run(
        ["node", project / "readme.mjs"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    answer = "Paris null" if held is None else f"{EDITS[0].target} {EDITS[0].id}"
    assert ended.stdout.strip() == f"{EDITS[0].prompt} {answer}"


@pytest.mark.slow
def test_in_a_browser(javascript: ModuleType, project: Path, cases: Path) -> None:
    try:
        browser = javascript.chromium()
    except javascript.UnavailableError as error:
        pytest.skip(str(error))
    node(project, "browser.test.js", cases, MEMOIR_EDGE_CHROMIUM=browser)


def test_the_npm_package_is_of_this_version() -> None:
    package = json.loads((JS / "package.json").read_text())
    lock = json.loads((JS / "package-lock.json").read_text())
    assert package["version"] == lock["version"] == __version__
