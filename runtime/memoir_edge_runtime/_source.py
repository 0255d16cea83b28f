"""What the encoder of an encoder-decoder makes of prompts: the decoder reads it at every step.

Knows nothing of decoding. The encoder's graph gives keys and values under the names of the
decoder's inputs, so what is kept of it is what is fed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memoir_edge.base import ENCODER, read_config, start_of_answer
from memoir_edge.errors import GraphError, first_line
from memoir_edge_runtime._provider import OrtValue, device, open_graph, value

Ints = npt.NDArray[np.int64]
MASK = "encoder_attention_mask"  # of the decoder's graph


@dataclass(frozen=True)
class Source:
    """Prompts that an encoder has read: B rows of up to S tokens, flush left."""

    attention: Ints  # [B, S], 1 on tokens, 0 on padding
    read: Mapping[str, OrtValue]  # keys and values [B, heads, S, width], by input of the decoder

    @property
    def feeds(self) -> dict[str, OrtValue]:
        """All that the decoder's graph takes of it."""
        return {MASK: value(self.attention), **self.read}


class Encoder:
    """An encoder's graph on an ONNX Runtime session.

    Args:
        graph: The InferenceSession.
    """

    def __init__(self, graph: Any) -> None:
        self._graph, self._device = graph, device(graph)
        self.gives = [output.name for output in graph.get_outputs()]

    def read(self, rows: Sequence[Sequence[int]]) -> Source:
        """Read B prompts, each at least one token.

        Raises:
            GraphError: The graph failed.
        """
        attention = _attention([len(row) for row in rows])
        ids = np.zeros_like(attention)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        feeds = {"input_ids": value(ids), "attention_mask": value(attention)}
        try:
            read = self._graph.run_with_ort_values(self.gives, feeds)
        except Exception as error:  # onnxruntime's errors share no base class
            raise GraphError(
                f"the encoder failed on a batch of {ids.shape[0]} by {ids.shape[1]} tokens: "
                f"{first_line(error)}",
                hint="export the model again",
            ) from error
        return Source(attention, dict(zip(self.gives, read, strict=True)))

    def join(self, parts: Sequence[tuple[Source, Sequence[int]]]) -> Source:
        """Some rows of several sources as one, in the order given, without padding none needs."""
        rows = [(source, i) for source, kept in parts for i in kept]
        tokens = [int(source.attention[i].sum()) for source, i in rows]
        arrays = [{name: source.read[name].numpy() for name in self.gives} for source, _ in parts]
        of = [number for number, (_, kept) in enumerate(parts) for _ in kept]
        read = {}
        for name in self.gives:
            heads, _, width = arrays[0][name].shape[1:]
            out = np.zeros((len(rows), heads, max(tokens), width), arrays[0][name].dtype)
            for j, (number, (_, i), n) in enumerate(zip(of, rows, tokens, strict=True)):
                out[j, :, :n] = arrays[number][name][i, :, :n]
            read[name] = value(out, self._device)
        return Source(_attention(tokens), read)


def _attention(tokens: Sequence[int]) -> Ints:
    """`[B, S]` for rows of so many tokens."""
    places = np.arange(max(tokens))
    return (places < np.array(tokens)[:, None]).astype(np.int64)


def encoder_of(
    folder: Path, providers: Sequence[str] | None = None, threads: int | None = None
) -> Encoder | None:
    """The encoder of an export directory; None of a decoder alone.

    Raises:
        GraphError: It should have one, and there is none that can be loaded.
    """
    if start_of_answer(read_config(folder)) is None:
        return None
    if not (folder / ENCODER).is_file():
        raise GraphError(
            f"{folder} holds no {ENCODER}, and its model is an encoder-decoder",
            hint="export the model again: memoir-edge export --model MODEL --out DIR",
        )
    return Encoder(open_graph(folder / ENCODER, providers, threads))
