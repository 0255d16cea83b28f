"""The memory that is wanted, by URI and digest: fetched, checked, and made to answer.

Knows nothing of HTTP, or of who wants it. Needs fsspec, from the extra `ray`.

    follow(server, {"memory": {"uri": "s3://facts/today.safetensors", "digest": "9f2c..."}}, folder)
    follow(server, {"memory": None}, folder)                 the base model
"""

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import fsspec

from memoir_edge.errors import InputError, MemoirEdgeError, MismatchError, first_line
from memoir_edge.memory import LimitError
from memoir_edge_runtime.serve.logs import log
from memoir_edge_runtime.serve.names import BASE, name_of
from memoir_edge_runtime.serve.server import Server

MAX_BYTES = 2**32  # of a memory file; the builder's `max_memory_bytes` says otherwise
_BLOCK = 2**20
_SAMPLE = '{"memory": {"uri": "s3://...", "digest": "<64 hex digits>"}} or {"memory": null}'


@dataclass(frozen=True)
class Wanted:
    """A memory file: where it lies, its SHA-256, and what requests call it."""

    uri: str
    digest: str
    name: str

    @property
    def shown(self) -> str:
        """The URI for logs and errors, without a password or the signature of a presigned one."""
        return re.sub(r"//[^/@]*@", "//", self.uri.partition("?")[0])


def parse(config: object) -> Wanted | None:
    """What a configuration wants; None is the base model.

    Args:
        config: `{"memory": None}`, or `{"memory": {"uri", "digest", "name"?}}`; the name is by
            default the file's up to its first dot.

    Raises:
        InputError: It is something else.
    """
    if not isinstance(config, dict) or set(config) != {"memory"}:
        raise InputError(f"the configuration is {str(config)[:200]!r}", hint=f"expected {_SAMPLE}")
    memory = config["memory"]
    if memory is None:
        return None
    if (
        not isinstance(memory, dict)
        or not {"uri", "digest"} <= set(memory) <= {"uri", "digest", "name"}
        or not all(isinstance(value, str) for value in memory.values())
    ):
        raise InputError(f"the memory is {str(memory)[:200]!r}", hint=f"expected {_SAMPLE}")
    if not re.fullmatch("[0-9a-f]{64}", memory["digest"]):
        raise InputError(
            f"the digest is {memory['digest'][:80]!r}, expected 64 hexadecimal digits",
            hint="memoir-edge inspect FILE prints it, sha256sum FILE too",
        )
    stem = name_of(PurePosixPath(memory["uri"].partition("?")[0]))
    return Wanted(memory["uri"], memory["digest"], memory.get("name", stem))


def fetch(wanted: Wanted, folder: Path, most: int = MAX_BYTES) -> Path:
    """Copy the file into a folder; what is there afterwards has the digest.

    Args:
        wanted: What to copy.
        folder: Where to; an earlier copy under the digest is replaced.
        most: Most bytes that are taken.

    Raises:
        InputError: It cannot be fetched.
        LimitError: It is larger.
        MismatchError: It has another digest.
    """
    path, found, size = folder / f"{wanted.digest}.safetensors", hashlib.sha256(), 0
    try:
        with fsspec.open(wanted.uri, "rb") as source, path.open("wb") as out:
            while block := source.read(_BLOCK):
                size += len(block)
                if size > most:
                    raise LimitError(f"{wanted.shown} has more than {most} bytes")
                found.update(block)
                out.write(block)
        if found.hexdigest() != wanted.digest:
            raise MismatchError(
                f"{wanted.shown} has digest {found.hexdigest()}, wanted is {wanted.digest}",
                hint="the file was replaced or damaged: name the digest that is meant",
            )
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, MemoirEdgeError) or not isinstance(error, Exception):
            raise
        # Each file system has errors of its own.
        raise InputError(
            f"cannot fetch {wanted.shown}: {type(error).__name__}: {first_line(error)}",
            hint="check that it is there and may be read; s3:// needs the package s3fs",
        ) from error
    return path


def follow(server: Server, config: object, folder: Path, most: int = MAX_BYTES) -> None:
    """Answer with the memory that a configuration wants, and with no other.

    From here until it answers, the server says that it is not ready. Running requests finish on the
    memory they began with; if it fails, the former one goes on answering, and the server says why
    it is not ready.

    Args:
        server: The server.
        config: As `parse` takes it.
        folder: For the file, of this server alone.
        most: Most bytes of the file.

    Raises:
        MemoirEdgeError: What `parse`, `fetch` and `Memories.load` raise.
    """
    name, file = BASE, None
    try:
        wanted = parse(config)
        server.unready = f"loading {'the base model' if wanted is None else wanted.digest}"
        if wanted is None:
            server.memories.activate(BASE)
        else:
            name, file = wanted.name, fetch(wanted, folder, most)
            verify = server.settings.verify
            server.memories.load(file, name=name, verify=verify, digest=wanted.digest)
    except MemoirEdgeError as error:
        server.unready = str(error)
        log(logging.ERROR, "wanted memory refused", error=f"{type(error).__name__}: {error}")
        raise
    for former in server.memories.table.loaded:
        if former not in (BASE, name):
            server.unload(former)
    for each in folder.iterdir():
        if each != file:
            each.unlink()
    server.unready = None
