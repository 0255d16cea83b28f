"""The masks of prompts, as an exported graph itself makes them.

A graph says how near a prompt is to the keys of a memory. What the prompt's own mask is follows
from what the site reads, which is an output of the graph here. Knows nothing of edits.
"""

from pathlib import Path

import numpy as np

from memoir_edge import base, ports, sidecar, tophash
from memoir_edge.memory import Memory
from memoir_edge.tophash import Bytes
from memoir_edge_runtime import _tokens
from memoir_edge_runtime._decoder import Decoder
from memoir_edge_runtime._provider import graph_of, open_graph
from memoir_edge_runtime._source import encoder_of


class Masks:
    """Makes masks by a graph, with the hashing of a memory.

    Args:
        model_dir: An export directory, whatever its precision.
        memory: What says which tokens count, what they are centred on, and how many bits are set.
        threads: Of one operator; None leaves it to onnxruntime.

    Raises:
        GraphError: No export directory, or a graph without ports.
        MismatchError: The memory belongs to another model or site.

    Example:
        >>> from memoir_edge.memory import read
        >>> masks = Masks(Path("onnx"), read("facts.safetensors"))
        >>> masks.of("The capital of France is").shape
        (96,)
    """

    def __init__(self, model_dir: Path, memory: Memory, *, threads: int | None = None) -> None:
        made = sidecar.read(model_dir)
        sidecar.check_fit(memory, made)
        self._memory = memory
        self._tokenizer = _tokens.load(model_dir)
        self._context = base.context(base.read_config(model_dir))
        graph = open_graph(graph_of(model_dir), None, threads, shown=ports.SITE_INPUT)
        encoder = encoder_of(model_dir, threads=threads)
        self._decoder = Decoder(graph, encoder, padding_side=made.padding_side)

    def of(self, text: str) -> Bytes:
        """The packed mask of a prompt, `[ceil(D/8)]`.

        Raises:
            InputError: The model's context has no room for it.
        """
        held, row = self._memory, self._tokenizer.prompt(text)
        _tokens.check_length("the prompt", len(row.prompt), self._context)
        counted = np.zeros((1, len(row.ids)), np.int64)
        counted[0, row.counted] = 1
        span = tophash.span(held.feature, counted)
        f = tophash.feature(self._decoder.site_input(row)[None], span)
        bits = tophash.mask(f, held.center, held.scale, held.permutation, held.k)
        mask: Bytes = tophash.pack(bits)[0]
        return mask
