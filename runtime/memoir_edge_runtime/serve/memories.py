"""The memories that a server has loaded, by name, and which of them answers by default.

Knows nothing of HTTP or of running requests. One immutable table says what is loaded and what is
active. Replacing the reference to it is the whole swap; whoever resolved a name before goes on with
the generation that it got.

    table = Memories(session, roots=["/srv/memories"])
    table.load(path, activate=True)         read, checked, placed and replayed first; then exchanged
    table.resolve("base@facts").generation  what a request asks for by its model's name
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from memoir_edge import memory as memory_file
from memoir_edge.errors import InputError, MemoirEdgeError, MismatchError
from memoir_edge_runtime._generation import Generation
from memoir_edge_runtime._replay import Complete, probes, recorded, replay
from memoir_edge_runtime._session import Session
from memoir_edge_runtime.serve.names import BASE, DEFAULT, checked, name_of

_TOGETHER = 16  # probes asked at once; for a short time they take the places of as many answers


class UnknownModelError(MemoirEdgeError):
    """No model or memory of that name."""


class RootError(MemoirEdgeError):
    """A path that is not under an allowed root."""


class ConflictError(MemoirEdgeError):
    """The request conflicts with what is loaded."""


class VerificationError(MemoirEdgeError):
    """A probe of the memory does not get the answer that it must."""

    exit_code = 1


@dataclass(frozen=True, eq=False)
class Loaded:
    """A memory under its name; `base` is the base model."""

    name: str
    generation: Generation
    file: Path | None = None
    probes: int = 0  # replayed, and all of them held

    @property
    def model(self) -> str:
        """The model's name in requests."""
        return BASE if self.name == BASE else f"{BASE}@{self.name}"


@dataclass(frozen=True)
class Table:
    """What is loaded, and which name answers by default."""

    loaded: Mapping[str, Loaded]
    active: str

    @property
    def default(self) -> Loaded:
        """The memory that answers by default."""
        return self.loaded[self.active]


Observe = Callable[[str, str, float, Exception | None], None]


class Memories:
    """Named memories of one session; safe to use from several threads.

    Args:
        session: The model.
        roots: Folders that `allowed` takes files from.
        max_loaded: Most memories that are loaded at once, the base model not counted.
        complete: Writes the probes' answers; default the session alone.
        observe: Told of every load, activation and unloading: what, of which memory, its seconds,
            and why it failed.
    """

    def __init__(
        self,
        session: Session,
        *,
        roots: Sequence[str | Path] = (),
        max_loaded: int = 16,
        complete: Complete | None = None,
        observe: Observe = lambda what, name, seconds, error: None,
    ) -> None:
        self._session, self._complete = session, complete
        self._max_loaded, self._observe = max_loaded, observe
        self._roots = [_root(Path(root)) for root in roots]
        self.table = Table({BASE: Loaded(BASE, session.base)}, BASE)
        self._loading = threading.Lock()  # one load at a time: each may need much memory
        self._exchange = threading.Lock()  # held for the exchange alone

    def resolve(self, model: str | None) -> Loaded:
        """The memory that a request's model name means; None and `default` are the active one.

        Raises:
            UnknownModelError: There is none of that name.
        """
        table = self.table
        if model in (None, "", DEFAULT):
            return table.default
        found = {loaded.model: loaded for loaded in table.loaded.values()}.get(str(model))
        if found is None:
            names = ", ".join(sorted(loaded.model for loaded in table.loaded.values()))
            raise UnknownModelError(
                f"no model {str(model)[:80]!r}; there are: {DEFAULT}, {names}",
                hint="load a memory under that name, or ask for one of these",
            )
        return found

    def named(self, name: str) -> Loaded:
        """The memory of a name; `default` is the active one.

        Raises:
            UnknownModelError: Nothing of that name is loaded.
        """
        return self.table.default if name == DEFAULT else self._known(name)

    def allowed(self, given: str) -> Path:
        """A file that lies under a root after all symbolic links are followed.

        Raises:
            RootError: It does not, or is not there; the message does not tell which.
        """
        for root in self._roots:
            try:
                found = (root / given).resolve(strict=True)
            except (OSError, ValueError, RuntimeError):  # absent, a zero byte, a loop of links
                continue
            if found.is_relative_to(root):
                return found
        raise RootError(
            f"no file {given[:200]!r} under a memory root",
            hint="put the file into a folder that the server was started with (--memory-root)",
        )

    def load(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        activate: bool = True,
        again: bool = True,
        verify: bool = True,
        digest: str | None = None,
    ) -> Loaded:
        """Load a memory beside the traffic; the table changes only if everything went well.

        A memory of the same name is replaced. A file that is loaded already, by its digest, is not
        copied to the device again.

        Args:
            path: The file.
            name: What requests call it; default the file's name up to its first dot.
            activate: Whether it answers by default.
            again: Whether it does so, too, where the same file is loaded under this name already.
            verify: Replay its probes, or where it has none its edits, before anything changes.
            digest: SHA-256 that the file must have.

        Raises:
            InputError: The file cannot be read, or the name cannot be used.
            MemoryFormatError: It is no valid memory.
            MismatchError: It belongs to another model, or is not the file that is wanted.
            VerificationError: A probe does not hold.
            ConflictError: Too many memories are loaded.
        """
        path = Path(path)
        name = name_of(path) if name is None else name
        with self._watched("load", name), self._loading:
            loaded = self._read(path, checked(name), verify, digest)
            with self._exchange:
                former, known = self.table.loaded.get(name), {**self.table.loaded, name: loaded}
                if len(known) - 1 > self._max_loaded:
                    raise ConflictError(
                        f"{self._max_loaded} memories are loaded, that is the most",
                        hint="unload one first",
                    )
                same = former is not None and former.generation.digest == loaded.generation.digest
                chosen = activate and (again or not same)
                self.table = Table(known, name if chosen else self.table.active)
        return loaded

    def _read(self, path: Path, name: str, verify: bool, digest: str | None) -> Loaded:
        memory = memory_file.read(path)
        if digest is not None and memory.digest != digest:
            raise MismatchError(f"{path} has digest {memory.digest}, wanted is {digest}")
        for other in self.table.loaded.values():
            if other.generation.digest == memory.digest and (other.probes or not verify):
                return replace(other, name=name, file=path)
        generation = self._session.load(memory)
        return Loaded(name, generation, path, self._verify(generation) if verify else 0)

    def _verify(self, generation: Generation) -> int:
        """Number of probes, all of which hold."""
        assert generation.memory is not None
        cases = probes(generation.memory) or recorded(generation.memory)
        for part in replay(
            self._session, generation, cases, together=_TOGETHER, complete=self._complete
        ):
            for case, result, held in part:
                if not held:
                    raise VerificationError(
                        f"the memory does not hold here: {case.prompt!r} must reach "
                        f"{case.id or 'no edit'} and give {case.target!r}, it reaches "
                        f"{result.fired or 'no edit'} and gives {result.text.strip()!r}",
                        hint="memoir-edge verify shows every edit",
                    )
        return len(cases)

    def activate(self, name: str, *, verify: bool = False) -> Loaded:
        """Answer by default with a loaded memory, or with the base model.

        Args:
            name: The memory's, or `base`.
            verify: Replay its probes, or where it has none its edits, before it answers.

        Raises:
            UnknownModelError: Nothing of that name is loaded.
            VerificationError: A probe does not hold; what answered goes on.
        """
        with self._watched("activate", name):
            if not verify:
                return self._activate(name)
            with self._loading:  # nothing takes the name's place meanwhile
                generation = self.named(name).generation
                held = self._verify(generation) if generation.memory else 0
                return self._activate(name, held)

    def _activate(self, name: str, held: int | None = None) -> Loaded:
        """Exchange; `held` is how many probes were replayed just now."""
        with self._exchange:
            known = self._known(name)
            loaded = known if held is None else replace(known, probes=held)
            self.table = Table({**self.table.loaded, name: loaded}, name)
            return loaded

    def unload(self, name: str) -> Loaded:
        """Forget a memory; requests that run on it finish, and then it is gone.

        Returns:
            What was forgotten.

        Raises:
            UnknownModelError: Nothing of that name is loaded.
            ConflictError: It is active, or the base model.
        """
        with self._watched("unload", name), self._exchange:
            known = self._known(name)
            if name in (BASE, self.table.active):
                what = "the base model" if name == BASE else "active"
                raise ConflictError(f"{name} is {what}", hint="activate another memory, or base")
            kept = {n: loaded for n, loaded in self.table.loaded.items() if n != name}
            self.table = replace(self.table, loaded=kept)
            return known

    def _known(self, name: str) -> Loaded:
        found = self.table.loaded.get(name)
        if found is None:
            raise UnknownModelError(f"no memory {name[:80]!r} is loaded")
        return found

    @contextmanager
    def _watched(self, what: str, name: str) -> Iterator[None]:
        """Tell the observer how long something took with a memory and whether it failed."""
        began = time.perf_counter()
        try:
            yield
        except Exception as error:
            self._observe(what, name, time.perf_counter() - began, error)
            raise
        self._observe(what, name, time.perf_counter() - began, None)


def _root(root: Path) -> Path:
    if not root.is_dir():
        raise InputError(f"memory root {root} is no folder")
    return root.resolve()
