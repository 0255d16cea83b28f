"""The router beside a graph: which of a memory's edits a text asks for, by what the text says.

A sentence encoder makes a text's code (`router.onnx`), and the Route op finds the nearest key of a
memory (`route.onnx`). Knows nothing of the model that answers. Runs on the CPU, whatever the model
runs on: a text is read in some milliseconds, and the keys are searched by an index.

    router = Router(folder / "router", threads=1)
    keys = router.place(memory.codes)                 once for each memory
    routes, cut = router.decide(["Who runs Acme?"], keys)
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tokenizers

from memoir_edge import ports, tophash
from memoir_edge.errors import GraphError, InputError, first_line
from memoir_edge.memory import Codes
from memoir_edge.spelling import Spelling
from memoir_edge.views import decisive, views
from memoir_edge_runtime import _ops, _provider
from memoir_edge_runtime._provider import OrtValue, value

Floats = npt.NDArray[np.float32]

FOLDER = "router"
_BLOCK = 16  # tokens: texts that differ by fewer are read together
_KEPT = 1024  # texts whose codes are kept: asked of several memories, or again, they are read once


class Keys(NamedTuple):
    """A memory's keys, placed."""

    ports: Mapping[str, OrtValue]  # of `route.onnx`
    respell: Spelling  # puts typos right, by the words of the keys too


class Read(NamedTuple):
    """What a text's code is made of."""

    f: Floats  # [P]
    cut: bool  # the text was too long: only its last part was read


class Decided(NamedTuple):
    """Where texts go: B rows."""

    routes: tophash.Routes  # `candidate` is a row of the keys
    cut: tuple[bool, ...] = ()  # whether only a text's last part was read; empty: none was cut

    def of(self, rows: Sequence[int]) -> "Decided":
        """The same for some of the rows."""
        routes = tophash.Routes._make(field[list(rows)] for field in self.routes)
        return Decided(routes, tuple(self.cut[i] for i in rows) if self.cut else ())


class Router:
    """A `router` folder, loaded; safe to use from several threads.

    Args:
        folder: What `memoir-edge export --encoder` wrote into an export directory.
        threads: Of one operator; None leaves it to onnxruntime.
        native: Search keys in native code where the package was built with it.

    Raises:
        GraphError: A graph is missing or cannot be loaded.
        InputError: The tokenizer cannot be read.
    """

    def __init__(self, folder: Path, *, threads: int | None = None, native: bool = True) -> None:
        self._native = native and _ops.library("cpu") is not None
        library = _ops.library if self._native else lambda device: None
        self._tokenizer = _load(folder / "tokenizer.json")
        padding = self._tokenizer.padding or {}
        self._padding = int(padding.get("pad_id", 0))
        self._tokenizer.no_padding()
        self._spelling = Spelling(self._tokenizer.get_vocab())
        self._encoder = _open(folder / "router.onnx", threads, lambda device: None)
        self._route = _open(folder / "route.onnx", threads, library)
        self._recent = OrderedDict[str, Read]()
        self._lock = threading.Lock()

    def place(self, codes: Codes) -> Keys:
        """A memory's keys as the Route op takes them, and their words; a large bank is indexed."""
        tensors: dict[str, npt.NDArray[Any]] = {
            "memory.bank": codes.keys, "memory.owner": codes.owner,
            "memory.thresholds": codes.thresholds,
        }  # fmt: skip
        # Copies: on the CPU a value is a view, and the caller may change what it was made of.
        placed = {name: value(array.copy()) for name, array in tensors.items()}
        if self._native:
            _ops.index(placed["memory.bank"], placed["memory.thresholds"])
        return Keys(placed, self._spelling.knowing(codes.texts))

    def decide(self, texts: Sequence[str], keys: Keys) -> Decided:
        """The nearest key of each text, or of another of its views, and where that sends it.

        Args:
            texts: B texts.
            keys: At least one, as `place` gives them.
        """
        parts, of = views(texts, keys.respell)
        read = self.read(parts)
        code = value(np.stack([each.f for each in read]))
        outputs = self._route.run_with_ort_values([*ports.OUTPUTS], {"code": code, **keys.ports})
        routes = tophash.Routes._make(output.numpy().copy() for output in outputs)
        whole = np.searchsorted(of, np.arange(len(texts)))
        return Decided(decisive(routes, of), tuple(read[i].cut for i in whole))

    def tokens(self, text: str) -> int:
        """Tokens that are read of a text, special ones included."""
        return len(self._tokenizer.encode(text.strip()).ids)

    def read(self, texts: Sequence[str]) -> list[Read]:
        """What the texts' codes are made of; TopHash gives the code."""
        with self._lock:
            known = {text: self._recent[text] for text in texts if text in self._recent}
        known |= self._run([text for text in dict.fromkeys(texts) if text not in known])
        with self._lock:
            for text, found in known.items():
                self._recent[text] = found
                self._recent.move_to_end(text)
            while len(self._recent) > _KEPT:
                self._recent.popitem(last=False)
        return [known[text] for text in texts]

    def _run(self, texts: Sequence[str]) -> dict[str, Read]:
        encodings = self._tokenizer.encode_batch([text.strip() for text in texts])
        order = sorted(range(len(texts)), key=lambda i: len(encodings[i].ids))
        found: dict[str, Read] = {}
        for _, alike in groupby(order, key=lambda i: len(encodings[i].ids) // _BLOCK):
            group = list(alike)
            for i, f in zip(group, self._codes([encodings[i] for i in group]), strict=True):
                found[texts[i]] = Read(f, bool(encodings[i].overflowing))
        return found

    def _codes(self, encodings: Sequence[Any]) -> Floats:
        """`[B, P]` of texts that come together to the graph."""
        T = max(len(encoding.ids) for encoding in encodings)
        ids = np.full((len(encodings), T), self._padding, np.int64)
        attention = np.zeros_like(ids)
        for i, encoding in enumerate(encodings):
            ids[i, : len(encoding.ids)] = encoding.ids
            attention[i, : len(encoding.ids)] = 1
        f: Floats = self._encoder.run(["code"], {"input_ids": ids, "attention_mask": attention})[0]
        return f


def _open(path: Path, threads: int | None, library: _provider.Library) -> Any:
    if not path.is_file():
        raise GraphError(f"there is no {path}", hint="export the model again, with --encoder")
    return _provider.open_graph(path, [_provider.CPU], threads, library)


def _load(path: Path) -> tokenizers.Tokenizer:
    """The encoder's tokenizer: it cuts what is too long, as its own file says."""
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise InputError(
            f"{path} is no tokenizer: {first_line(error)}",
            hint="export the model again, with --encoder",
        ) from error
