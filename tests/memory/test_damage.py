"""A damaged file, or another one, is refused by its own error; a kill leaves a whole file."""

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge import DIGEST, DOCUMENT, EACH, EVERY, FORMAT, KEYED, MEMORY, document, forge, k, seal
from memoir_edge import memory as module
from memoir_edge import tophash
from memoir_edge.errors import MemoryFormatError
from memoir_edge.memory import Memory, Router, from_bytes, read, to_bytes, write


@EACH
def test_what_another_writer_made_is_read(memory: Memory) -> None:
    """The forger follows the page; if this fails, no refusal means anything."""
    found = from_bytes(forge(memory=memory))
    assert to_bytes(found) == to_bytes(memory)


# --- Damage --------------------------------------------------------------------------------------

WHOLE = to_bytes(MEMORY)


@EACH
def test_every_altered_byte_is_refused(memory: Memory) -> None:
    whole = to_bytes(memory)
    for position in range(len(whole)):
        for pattern in (0x01, 0x20, 0x80, 0xFF):
            data = bytearray(whole)
            data[position] ^= pattern
            with pytest.raises(MemoryFormatError):
                from_bytes(bytes(data))


@EACH
def test_every_cut_is_refused(memory: Memory) -> None:
    whole = to_bytes(memory)
    for length in range(len(whole)):
        with pytest.raises(MemoryFormatError):
            from_bytes(whole[:length])


@pytest.mark.parametrize("more", [b"\0", b" ", b"\0" * 8, WHOLE])
def test_appended_bytes_are_refused(more: bytes) -> None:
    with pytest.raises(module.NotSafetensorsError):
        from_bytes(WHOLE + more)
    with pytest.raises(module.NotSafetensorsError):
        from_bytes(more + WHOLE)


@pytest.mark.parametrize(
    "stated", ["", "1" * 64, "AB" * 32, "é" * 32, "0" * 63, json.dumps("0" * 64)]
)
def test_a_digest_that_is_none(stated: str) -> None:
    with pytest.raises(module.DigestError):
        from_bytes(forge(**{DIGEST: stated}))


def test_a_digest_that_stands_twice() -> None:
    """Which of the two were to be blanked? Neither: it cannot happen by an honest writer."""
    data = forge(json.dumps(document(tool="1" * 64)), **{DIGEST: "1" * 64})
    with pytest.raises(module.DigestError, match="once"):
        from_bytes(data)


# --- The container -------------------------------------------------------------------------------


def raw(head: str | bytes, body: bytes = b"") -> bytes:
    head = head.encode() if isinstance(head, str) else head
    return len(head).to_bytes(8, "little") + head + body


ONE = '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        bytes(8),
        b"PK\3\4" + bytes(100),
        b"\x80\x04\x95" + bytes(100),  # a pickle
        b"\xff" * 8 + b"{}",
        (2**63).to_bytes(8, "little") + b"{}",
        raw("[]"),
        raw("null"),
        raw("{"),
        raw(b'{"__metadata__":{"\xff":"1"}}'),
        raw('{"__metadata__":{"a":"\\ud800"}}'),
        *(raw(f'{{"__metadata__":{what}}}') for what in ("[]", "[[]]", "1", "true", '"a"')),
        *(raw(f'{{"__metadata__":{{"a":{what}}}}}') for what in ("1", "null", "[]", "{}")),
        raw('{"__metadata__":{"a":"1","a":"2"}}'),
        raw('{"__metadata__":{},"__metadata__":{}}'),
        raw('{"__metadata__":' + '{"a":' * 50_000 + "1" + "}" * 50_001),
        raw("[" * 100_000),
        raw(f'{{"a":{ONE},"a":{ONE}}}', b"x"),
        raw(f'{{"a":{ONE},"b":{ONE}}}', b"x"),
        raw(f'{{"a":{ONE}}}', b"xx"),
        raw(f'{{"a":{ONE}}}'),
        raw('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', b"xx"),
        raw('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}', b"x"),
        raw('{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}', b"x"),
        raw('{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}', b"x"),
        raw('{"a":{"dtype":"Z9","shape":[1],"data_offsets":[0,1]}}', b"x"),
        raw(f'{{"a":{{"dtype":"F32","shape":[{2**62},8],"data_offsets":[0,0]}}}}'),
        raw(f'{{"a":{{"dtype":"F32","shape":[{10**40}],"data_offsets":[0,0]}}}}'),
    ],
)
def test_no_safetensors_file(data: bytes) -> None:
    with pytest.raises(module.NotSafetensorsError):
        from_bytes(data)


@pytest.mark.parametrize(
    "head",
    [
        "{}",
        f'{{"a":{ONE}}}',
        '{"__metadata__":{"format":"pt"}}',
        '{"__metadata__":null}',
        f'{{"__metadata__":null,"a":{ONE}}}',
    ],
)
def test_another_safetensors_file(head: str) -> None:
    with pytest.raises(module.NotAMemoryError) as caught:
        from_bytes(raw(head, b"x" if "a" in head and "shape" in head else b""))
    assert "model's weights" in str(caught.value.hint)


@pytest.mark.parametrize("key", [FORMAT, DOCUMENT, DIGEST])
def test_without_a_metadata_key(key: str) -> None:
    with pytest.raises(module.NotAMemoryError, match=key):
        from_bytes(forge(without=key))


@pytest.mark.parametrize(
    "version", ["5", "0", "10", "-1", "1.0", " 1", "01", "", "one", "1" * 9999]
)
def test_an_unknown_version(version: str) -> None:
    """Also where a later version has another digest: the version is looked at first."""
    for digest in ("0" * 64, "sha512:"):
        with pytest.raises(module.VersionError) as caught:
            from_bytes(forge(**{FORMAT: version, DIGEST: digest}))
    assert len(str(caught.value)) < 100


# --- Noise ---------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda b: raw(b"{" + b, b)))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(MemoryFormatError):
        from_bytes(data)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
ANY = st.recursive(
    SCALARS,
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=4), x, max_size=4),
    max_leaves=5,
)


@settings(max_examples=150)
@given(st.sampled_from(EVERY), st.sampled_from(["dtype", "shape", "data_offsets", ""]), ANY)
def test_noise_in_the_header_is_refused(tensor: tuple[Memory, str], part: str, value: Any) -> None:
    """Any JSON in place of any part of a tensor's entry."""
    memory, name = tensor
    whole = to_bytes(memory)
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    if part:
        header[name][part] = value
    else:
        header[name] = value
    if header == json.loads(whole[8:end]):
        return
    header["__metadata__"][DIGEST] = "0" * 64
    with pytest.raises(MemoryFormatError):
        from_bytes(seal(json.dumps(header).encode(), whole[end:]))


@settings(max_examples=300)
@given(
    st.sampled_from(
        [(n,) for n in document(KEYED)]
        + [("base", "digest"), ("edits", 0), ("probes", 0)]
        + [("router", n) for n in Router._fields]
        + [("texts", 0)]
    ),
    ANY,
)
def test_noise_in_the_document_is_refused_or_read(path: tuple[Any, ...], value: Any) -> None:
    """Whatever stands there: a memory that can be written again, or a named error."""
    memory = KEYED if path[0] in ("router", "texts") else MEMORY
    found = document(memory)
    inner = found
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    try:
        memory = from_bytes(forge(json.dumps(found), memory=memory))
    except MemoryFormatError:
        return
    assert from_bytes(to_bytes(memory)).digest == hashlib.sha256(to_bytes(memory)).hexdigest()


# --- A kill --------------------------------------------------------------------------------------

WRITER = """
import sys
from dataclasses import replace
from memoir_edge.memory import read, write
one, path = read(sys.argv[1]), sys.argv[2]
two = replace(one, site="two")
print("ready", flush=True)
while True:
    write(one, path)
    write(two, path)
"""


def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """SIGKILL at a random moment of endless writes: the file is always whole."""
    rng = np.random.default_rng(0)
    C = 4096
    big = replace(
        MEMORY,
        columns=np.arange(C, dtype=np.int32),
        values=rng.normal(size=(C, 64)).astype(np.float32),
        scales=None,
        bank=tophash.pack(np.arange(C) < np.full((4, 1), k)),
        center=np.zeros(C, np.float32),
        scale=np.ones(C, np.float32),
        permutation=np.arange(C, dtype=np.int32),
    )
    first = write(big, tmp_path / "one")
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "memory"
    states = {first.digest, write(replace(big, site="two"), path).digest}
    seen: list[str | None] = []
    for _ in range(12):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "one"), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(float(rng.uniform(0, 0.03)))
            writer.kill()
        seen.append(read(path).digest)
    left = sum(file.name.endswith(".tmp") for file in folder.iterdir())
    print(f"old or new: {[sorted(map(str, states)).index(str(s)) for s in seen]}, {left} cut short")
    assert set(seen) <= states
    assert {file.name for file in folder.iterdir() if file.suffix != ".tmp"} == {"memory"}
