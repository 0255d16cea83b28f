"""A deployed model: text in, text out, with a memory that can be exchanged while it answers.

    session = Session("export", memory="facts.safetensors")
    [result] = session.generate("The capital of France is", Options(max_new_tokens=8))
    result.text, result.fired, result.routing.overlap
    session.swap(None)                                       # the base model is back

Knows nothing of servers, batching across requests, or how a memory is made. Safe to use from
several threads: `swap` exchanges one reference, and a request keeps the generation it began with.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from memoir_edge import base, sidecar
from memoir_edge import memory as memories
from memoir_edge.errors import InputError, MismatchError
from memoir_edge.memory import Memory
from memoir_edge.text import Message, split_target
from memoir_edge.views import said
from memoir_edge_runtime import _chat, _ops, _provider, _tokens
from memoir_edge_runtime._batch import complete
from memoir_edge_runtime._completion import Completion, Language
from memoir_edge_runtime._decoder import Decoder
from memoir_edge_runtime._generation import Generation, place
from memoir_edge_runtime._results import Forced, Result, Routing, Token
from memoir_edge_runtime._router import FOLDER, Decided, Router
from memoir_edge_runtime._sampling import Options, fresh_seed, likeliest
from memoir_edge_runtime._source import encoder_of
from memoir_edge_runtime._tokens import Prompt, check_length

GREEDY = Options()
_LOAD = "give what session.load(memory) gives"
_IN_HAND = "read bytes by memoir_edge.memory.from_bytes; None is the base model"
T = TypeVar("T")
Prompts = str | Prompt | Sequence[str | Prompt]


class Session:
    """An export directory, loaded.

    Args:
        model_dir: What `memoir-edge export` wrote: graph, tokenizer, configuration.
        memory: The memory to begin with; None is the base model.
        providers: onnxruntime's name or names, the best first; None: CUDA where it works, else CPU.
        threads: Of one operator; None leaves it to onnxruntime.
        max_batch: Most rows that run together; more prompts are answered in turns.
        native: Run Route and Recall in native code where the package was built with it.

    Raises:
        GraphError: No export directory, or a graph without ports.
        InputError: No tokenizer, or a provider that is not there.
        IncompatibleError: A memory that cannot be read or does not fit.
    """

    def __init__(
        self,
        model_dir: str | os.PathLike[str],
        *,
        memory: Memory | str | os.PathLike[str] | None = None,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        max_batch: int = 32,
        native: bool = True,
    ) -> None:
        if max_batch < 1:
            raise InputError(f"max_batch is {max_batch}, expected at least 1")
        folder = Path(model_dir)
        self.sidecar = sidecar.read(folder)
        tokenizer = _tokens.load(folder)
        eos = frozenset(base.end_of_text(folder, tokenizer.id("eos_token")))
        config = base.read_config(folder)
        self.language = Language(tokenizer, eos, base.context(config))
        self._vocabulary = int(config.get("vocab_size") or tokenizer.core.get_vocab_size())
        graph = _open(folder, providers, threads, native=native)
        encoder = encoder_of(folder, providers, threads)
        self.decoder = Decoder(graph, encoder, padding_side=self.sidecar.padding_side)
        self._native = native and _ops.library(self.decoder.device) is not None
        self.router = None
        if self.sidecar.router is not None:
            self.router = Router(folder / FOLDER, threads=threads, native=native)
        self.base = Generation(0)
        self._template = _chat.read_template(folder)
        self._max_batch = max_batch
        self._numbers = itertools.count(1)
        self._generation = self.base
        if memory is not None:
            self.swap(memory)

    @property
    def ops(self) -> str:
        """What Route and Recall run as: "native (avx2)" for instance, or "function bodies"."""
        if not self._native:
            return "function bodies"
        return f"native ({_ops.kernels() if self.decoder.device == 'cpu' else 'cuda'})"

    # --- Memories --------------------------------------------------------------------------------

    @property
    def generation(self) -> Generation:
        """What requests that begin now are answered with."""
        return self._generation

    def load(self, memory: Memory | str | os.PathLike[str]) -> Generation:
        """Read, check and place a memory on the device, beside the running requests.

        Nothing changes until it is given to `swap`, or to a request of its own.

        Raises:
            InputError: It is no file, or one that cannot be read.
            MemoryFormatError: It is no valid memory.
            MismatchError: It belongs to another model or site.
        """
        if not isinstance(memory, Memory):
            _expect("the memory", memory, "a file", str, os.PathLike, hint=_IN_HAND)
            memory = memories.read(Path(memory))
        self._check_fit(memory)
        generation = place(memory, next(self._numbers), self.decoder.device, self.router)
        if self._native and self.decoder.device == "cpu":
            _ops.index(generation.feeds["memory.bank"], generation.feeds["memory.thresholds"])
        return generation

    def swap(self, memory: Memory | Generation | str | os.PathLike[str] | None) -> Generation:
        """Answer requests that begin from now on with this memory; None is the base model.

        If the memory cannot be loaded (see `load`), the current one stays.

        Example:
            >>> session = Session("onnx")
            >>> [session.swap(it).memory is None for it in ("facts.safetensors", None)]
            [False, True]
        """
        if isinstance(memory, Generation):
            self._check(memory)
            new = memory
        else:
            new = self.base if memory is None else self.load(memory)
        self._generation = new  # the whole exchange; requests took their own reference at the start
        return new

    def _check(self, generation: Generation) -> None:
        if generation.memory is not None:
            self._check_fit(generation.memory)

    def _check_fit(self, memory: Memory) -> None:
        sidecar.check_fit(memory, self.sidecar)
        if memory.tiles > 1 and not self.decoder.tiled:
            raise MismatchError(
                f"the memory has {memory.tiles} tiles of columns, the graph takes one",
                hint="export the model again: the export is of an earlier version",
            )

    def _pin(self, memory: Generation | None) -> Generation:
        if memory is None:
            return self._generation
        _expect("the memory", memory, "a generation", Generation, hint=_LOAD)
        self._check(memory)
        return memory

    # --- Prompts ---------------------------------------------------------------------------------

    def prompt(self, text: str) -> Prompt:
        """A text as token ids, checked against the context.

        Raises:
            InputError: It is empty, or too long to be continued.
        """
        return self._fitting(Prompt(text, self.language.tokenizer.prompt(text), text))

    def token_prompt(self, ids: Sequence[int]) -> Prompt:
        """Token ids as a prompt, as they are; routed as the text that they are of.

        Raises:
            InputError: There are none, one that the model does not have, or too many.
        """
        ids, most = list(ids), self._vocabulary
        if bad := [id for id in ids if not _is_id(id, most)]:
            raise InputError(f"the prompt holds token id {bad[0]!r}, expected from 0 to {most - 1}")
        tokenizer = self.language.tokenizer
        return self._fitting(Prompt(tokenizer.decode(ids), tokenizer.given(ids), self._told(ids)))

    @property
    def takes_tools(self) -> bool:
        """Whether the model's chat template reads descriptions of tools."""
        return _chat.takes_tools(self._template)

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The text that the model's chat template makes of messages (`role`, `content`).

        Args:
            messages: The conversation.
            tools: Descriptions of functions, where the template takes them.
            variables: What else the template is told.
        """
        special = self.language.tokenizer.named
        return _chat.render(self._template, messages, special, tools=tools, variables=variables)

    def chat_prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """Messages as a prompt, routed from the last user message on.

        Earlier turns and a system prompt do not count. What the template puts behind the message
        does, because the answer begins there and the feature `last` reads the very last token. If
        the message cannot be found in the text, the whole prompt counts. A router beside the graph
        reads the message alone.

        Raises:
            InputError: No template, messages that it refuses, or too long a chat.
        """
        text = self.render_chat(messages, tools=tools, variables=variables)
        begin = _chat.last_user(text, messages) or 0
        row = self.language.tokenizer.counted(text, begin)
        return self._fitting(Prompt(text, row, _chat.asked(messages) or text))

    def _prompts(self, prompts: Prompts) -> list[Prompt]:
        given = _several(prompts)
        if not given:
            raise InputError("no prompts", hint="give at least one")
        return [self._asking(p) if isinstance(p, Prompt) else self.prompt(p) for p in given]

    def _asking(self, prompt: Prompt) -> Prompt:
        if prompt.asked:
            return prompt
        return self._fitting(replace(prompt, asked=prompt.text or self._told(prompt.row.prompt)))

    def _told(self, ids: Sequence[int]) -> str:
        """What token ids ask: special tokens say where a chat's user speaks, and else nothing."""
        decode = self.language.tokenizer.decode
        return said(decode(ids, special=True)) or decode(ids)

    def _fitting(self, prompt: Prompt) -> Prompt:
        if not prompt.row.prompt:
            raise InputError("the prompt is empty, and the tokenizer adds no token to begin with")
        self._check_asked(prompt.asked)
        check_length("the prompt", len(prompt.row.prompt), self.language.context, reserve=1)
        return prompt

    def _check_asked(self, text: str) -> None:
        if self.router is not None and not text.strip():
            raise InputError(
                "the prompt is empty: nothing says which edit it asks for", hint="give it some text"
            )

    # --- Answers ---------------------------------------------------------------------------------

    def stream(
        self,
        prompts: Prompts,
        options: Options = GREEDY,
        *,
        memory: Generation | None = None,
    ) -> Iterator[Token | Result]:
        """Continue prompts: each row's tokens as they come, and its result at its end.

        Args:
            prompts: Texts, or prompts made by `prompt` or `chat_prompt`.
            options: How; the default is greedy.
            memory: A generation of this session; default the current one at the call.

        Raises:
            InputError: At the call, before anything runs: an empty or too long prompt.

        Example:
            >>> session = Session("onnx", memory="facts.safetensors")
            >>> [event.text for event in session.stream("The capital of France is")]
            [' R', 'ome', '', ' Rome']
        """
        return self.complete(self.completions(prompts, options), self._pin(memory))

    def completions(self, prompts: Prompts, options: Options) -> list[Completion]:
        """The rows of a request, for `stream` or for a scheduler to write.

        Raises:
            InputError: An empty or too long prompt.
        """
        _expect("the options", options, "Options", Options, hint="Options(max_new_tokens=8)")
        seed = fresh_seed() if options.seed is None else options.seed
        return [
            Completion(i, prompt, options, seed, self.language)
            for i, prompt in enumerate(self._prompts(prompts))
        ]

    def complete(
        self, rows: Sequence[Completion], generation: Generation
    ) -> Iterator[Token | Result]:
        """Write rows to their ends, as `stream` says."""
        for part in _parts(rows, self._max_batch):
            yield from complete(self.decoder, generation, part, self.language.context)

    def generate(
        self,
        prompts: Prompts,
        options: Options = GREEDY,
        *,
        memory: Generation | None = None,
    ) -> list[Result]:
        """As `stream`, but wait for the results: one for each prompt, in their order.

        Example:
            >>> session = Session("onnx", memory="facts.safetensors")
            >>> asked = ["The capital of France is", "The capital of Spain is"]
            >>> for result in session.generate(asked, Options(max_new_tokens=8)):
            ...     print(result.text.strip(), result.fired)
            Rome france-capital
            Madrid None
        """
        events = self.stream(prompts, options, memory=memory)
        return sorted((e for e in events if isinstance(e, Result)), key=lambda r: r.row)

    def route(self, prompts: Prompts, *, memory: Generation | None = None) -> list[Routing]:
        """Which edit each prompt reaches, and with what overlap, without answering.

        Example:
            >>> session = Session("onnx", memory="facts.safetensors")
            >>> [routing] = session.route("The capital of France is")
            >>> routing.edit, round(routing.overlap, 2)
            ('france-capital', 1.0)
        """
        generation, out = self._pin(memory), list[Routing]()
        for part in _parts(self._prompts(prompts), self._max_batch):
            found = generation.decide([p.asked for p in part])
            if found is None:
                state, _ = self.decoder.prefill([p.row for p in part], generation)
                found = Decided(state.routes)
            out += generation.routings(found)
        return out

    def read_prompts(
        self, prompts: Prompts, count: int, *, memory: Generation | None = None
    ) -> list[list[Token]]:
        """How likely each token of the prompts was, behind those before it.

        Args:
            prompts: What is read; one after the other, because all logits of one are held.
            count: How many of the likeliest tokens are told of each.
            memory: A generation of this session; default the current one.

        Returns:
            The tokens of each prompt, without texts. The first stands behind nothing, so it has no
            log-probability.

        Raises:
            InputError: The model is an encoder-decoder.
        """
        if self.language.tokenizer.start is not None:
            raise InputError("an encoder reads the prompts, and does not say how likely they are")
        generation, out = self._pin(memory), list[list[Token]]()
        for number, prompt in enumerate(self._prompts(prompts)):
            found, ids = generation.decide([prompt.asked]), prompt.row.ids
            _, logits = self.decoder.read([prompt.row], generation, found and found.routes)
            behind = zip(ids[1:], logits[0].astype(np.float32), strict=False)
            out.append(
                [
                    Token(number, ids[0], ""),
                    *(Token(number, id, "", *likeliest(row, id, count)) for id, row in behind),
                ]
            )
        return out

    def teacher_forced(
        self, prompts: Sequence[str], targets: Sequence[str], *, memory: Generation | None = None
    ) -> list[Forced]:
        """The model's first choice at the place of each target token, behind prompt and target.

        The route is decided on the prompt's tokens alone, as if the target did not follow.

        Raises:
            InputError: Lists of different lengths, an empty target, or a pair that is too long.

        Example:
            >>> session = Session("onnx", memory="facts.safetensors")
            >>> [forced] = session.teacher_forced(["The capital of France is"], ["Rome"])
            >>> forced.predicted_ids == forced.target_ids
            True
        """
        if len(prompts) != len(targets):
            raise InputError(f"{len(prompts)} prompts and {len(targets)} targets")
        pairs = [self._split(p, t) for p, t in zip(prompts, targets, strict=True)]
        generation, out = self._pin(memory), list[Forced]()
        for part in _parts(list(zip(prompts, pairs, strict=True)), self._max_batch):
            read = [self.language.tokenizer.prompt(prompt) for prompt, _ in part]
            rows = [
                row._replace(ids=(*row.ids, *follow))
                for row, (_, (_, follow)) in zip(read, part, strict=True)
            ]
            found = generation.decide([prompt for prompt, _ in part])
            state, logits = self.decoder.read(rows, generation, found and found.routes)
            routings = generation.routings(found or Decided(state.routes))
            for i, (routing, (_, (_, follow))) in enumerate(zip(routings, part, strict=True)):
                # Rows are flush right, and each position predicts the one after it.
                predicted = np.argmax(logits[i, -len(follow) - 1 : -1], axis=-1).tolist()
                out.append(Forced(tuple(follow), tuple(predicted), routing))
        return out

    def _split(self, prompt: str, target: str) -> tuple[list[int], list[int]]:
        tokenizer = self.language.tokenizer
        read, follow = split_target(
            tokenizer.encode, tokenizer.encode_bare, prompt, target,
            apart=tokenizer.start is not None,
        )  # fmt: skip
        self._check_asked(prompt)
        if not target or not read or not follow:
            raise InputError(f"prompt {prompt!r} and target {target!r} need at least a token each")
        length = len(read) + len(follow)
        check_length("the prompt with its target", length, self.language.context)
        return read, follow


def _open(
    folder: Path, providers: Sequence[str] | None, threads: int | None, *, native: bool
) -> object:
    library = _ops.library if native else lambda device: None
    return _provider.open_graph(_provider.graph_of(folder), providers, threads, library)


def _several(prompts: Any) -> list[Any]:
    """Prompts as a list, whatever they are: one that is none is refused when it is read."""
    one = isinstance(prompts, str | bytes | Prompt) or not isinstance(prompts, Iterable)
    return [prompts] if one else list(prompts)


def _expect(name: str, found: object, expected: str, *types: type, hint: str) -> None:
    if not isinstance(found, types):
        kind = type(found).__name__
        raise InputError(f"{name} is of type {kind}, expected {expected}", hint=hint)


def _is_id(found: object, most: int) -> bool:
    return isinstance(found, Integral) and 0 <= int(found) < most


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[i : i + size] for i in range(0, len(items), size))
