"""The edited model in PyTorch: which edit a prompt reaches, and what is answered.

Each row's route is decided on its prompt and kept for its whole answer (MEMOIR section 3.3).
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from memoir_edge import tophash
from memoir_edge.answers import Answer, Forced
from memoir_edge.editor.layer import all_changed, head_reads, input_of
from memoir_edge.editor.live import LiveMemory, thaw
from memoir_edge.editor.model import BaseModel, Row, collate, counted, device_of, greedy
from memoir_edge.editor.site import find_sites, width
from memoir_edge.errors import MismatchError
from memoir_edge.memory import Base, Memory
from memoir_edge.router import Router, check_router
from memoir_edge.tophash import Bytes
from memoir_edge.views import decisive, views

T = TypeVar("T")


def read_at(
    site: nn.Module, base: BaseModel, prompts: Sequence[str], said: Sequence[str] | None = None
) -> tuple[tophash.Floats, tophash.Ints]:
    """What a layer reads of prompts, `[B, T, D]` float32, and what counts for routing, `[B, T]`.

    Of a prompt that stands behind something else, as in a chat, only what is `said` counts.
    """
    batch, counts = counted(base, prompts, said)
    a = input_of(base.net, site, batch).float().cpu().numpy()
    return a.reshape(*counts.shape, -1), counts


@dataclass
class Edited:
    """A base model together with a live memory; without one it is the base model."""

    base: BaseModel
    site: nn.Module  # the first, where activations route
    live: LiveMemory | None
    batch: int = 32
    router: Router | None = None  # what the live memory's keys are codes of; None: masks
    later: Sequence[nn.Module] = ()  # the memory's other sites

    def features(
        self, prompts: Sequence[str], feature: str, said: Sequence[str] | None = None
    ) -> tophash.Floats:
        """Routing features `[len(prompts), D]`, float32; only the layers below the site are run."""
        parts = _parts(list(zip(prompts, said or prompts, strict=True)), self.batch)
        return np.concatenate([self._features(part, feature) for part in parts])

    def _features(self, part: Sequence[tuple[str, str]], feature: str) -> tophash.Floats:
        a, counts = read_at(self.site, self.base, *zip(*part, strict=True))
        return tophash.feature(a, tophash.span(feature, counts))

    def routes(self, prompts: Sequence[str], said: Sequence[str] | None = None) -> tophash.Routes:
        """Where each prompt goes, by whichever of its `views` decides where a router reads it.

        Args:
            prompts: What the model reads.
            said: Of each what is asked, where that is not the whole: a chat's last user message.
        """
        assert self.live is not None
        if self.router is None:
            f = self.features(prompts, self.live.hashing.feature, said)
            return self.live.bank.route(self.live.hashing.mask(f))
        prompts = said or prompts
        held = (key.text for key in self.live.bank.keys if key.text)
        texts, of = views(prompts, self.router.respelling(held))
        return decisive(self.live.bank.route(self.keys(texts)), of)

    def keys(self, texts: Sequence[str]) -> Bytes:
        """What the texts are routed by, packed: codes `[n, ceil(P/8)]`, or masks."""
        assert self.live is not None
        if self.router is not None:
            return self.router.codes(texts)
        f = self.features(texts, self.live.hashing.feature)
        return self.live.hashing.mask(f)

    def answer(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        *,
        memory: bool,
        routes: tophash.Routes | None = None,
    ) -> list[Answer]:
        """Greedy answers, with the memory or as the base model.

        Args:
            prompts: What to answer.
            max_new_tokens: Most tokens of an answer.
            memory: Whether the memory may answer.
            routes: Where each prompt goes, given instead of decided.
        """
        if not prompts:
            return []
        rows = [self.base.encode(prompt) for prompt in prompts]
        routes = routes or self._routes(prompts, memory)
        answers: list[Answer] = []
        for part in _parts(range(len(rows)), self.batch):
            with self._recall(routes, part):
                grown = greedy(self.base, [rows[i] for i in part], max_new_tokens)
            texts = [self.base.decode(ids) for ids in grown]
            answers += [self._answer(text, routes, i) for text, i in zip(texts, part, strict=True)]
        return answers

    @contextmanager
    def recalling(self, prompts: Sequence[str]) -> Iterator[list[str | None]]:
        """While open, runs of the net answer with the memory, whoever runs it and on what.

        So a vision-language model, `base.whole`, answers what is asked of an image: routed is what
        the question says, and the image has no part in it.

        Args:
            prompts: What is routed; a run has as many rows, in this order.

        Yields:
            The id of the edit that each row is answered with; None is the base model.
        """
        routes = self.routes(prompts)
        with self._recall(routes, range(len(prompts))):
            yield self.fired(routes)

    @torch.no_grad()
    def forced(
        self, prompts: Sequence[str], targets: Sequence[str], *, memory: bool
    ) -> list[Forced]:
        """Teacher-forced predictions at every target token, on the route of the prompt alone."""
        split = [self.base.split(*pair) for pair in zip(prompts, targets, strict=True)]
        routes = self._routes(prompts, memory)
        out: list[Forced] = []
        for part in _parts(range(len(split)), self.batch):
            batch = self._whole([split[i] for i in part])
            with self._recall(routes, part):
                predicted = self.base.net(**batch, use_cache=False).logits.argmax(-1).cpu()
            for row, i in zip(predicted, part, strict=True):
                start, n = len(split[i].prompt) - 1, len(split[i].target)
                out.append(Forced(tuple(split[i].target), tuple(row[start : start + n].tolist())))
        return out

    def _whole(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Rows as a batch, their targets to the end."""
        read = [[*row.prompt, *row.target] for row in rows]
        return collate(self.base, read, side="right", sources=[row.source for row in rows])

    def shown(self, target: str) -> str:
        """What an answer shows of a target."""
        return self.base.shown(target)

    @torch.no_grad()
    def gives(self, asked: Sequence[Row], routes: tophash.Routes) -> list[bool]:
        """Whether a greedy answer is just the target, by one forward pass in place of generation.

        Args:
            asked: Token ids of each prompt and of its target. The target may be said in other
                tokens too: where this is False, only generation tells.
            routes: Where each prompt goes.
        """
        found = [False] * len(asked)
        order = sorted(range(len(asked)), key=lambda i: sum(map(len, asked[i])))
        for part in _parts(order, self.batch):
            split = [asked[i] for i in part]
            batch = self._whole(split)
            counts = [len(row.target) + 1 for row in split]
            at = (
                torch.tensor([row for row, n in enumerate(counts) for _ in range(n)]),
                torch.tensor([len(each.prompt) - 1 + j for each in split
                              for j in range(len(each.target) + 1)]),
            )  # fmt: skip
            with self._recall(routes, part), head_reads(self.base.net, at):
                said = self.base.net(**batch, use_cache=False).logits.argmax(-1).flatten().cpu()
            for i, tokens in zip(part, said.split(counts), strict=True):
                *target, end = tokens.tolist()
                found[i] = target == asked[i].target and end in self.base.eos
        return found

    def _routes(self, prompts: Sequence[str], memory: bool) -> tophash.Routes | None:
        return self.routes(prompts) if memory and self.live is not None else None

    def fired(self, routes: tophash.Routes) -> list[str | None]:
        """Ids of the edits that routes lead to; None is the base model."""
        assert self.live is not None
        keys = self.live.bank.keys
        return [keys[route - 1].edit if route > 0 else None for route in routes.route.tolist()]

    def _answer(self, text: str, routes: tophash.Routes | None, i: int) -> Answer:
        if routes is None:
            return Answer(text)
        assert self.live is not None
        route, best, keys = int(routes.route[i]), int(routes.candidate[i]), self.live.bank.keys
        edit = keys[route - 1].edit if route > 0 else None
        key, guarded = (keys[best].text, keys[best].edit is None) if best >= 0 else (None, False)
        return Answer(text, edit, float(routes.overlap[i]), key, guarded)

    def _recall(
        self, routes: tophash.Routes | None, part: Sequence[int]
    ) -> AbstractContextManager[None]:
        """While open, routed rows get Wm (M * a) added at each site, the others exactly 0."""
        if routes is None:
            return nullcontext()
        assert self.live is not None
        live, bank, D = self.live, self.live.bank, self.live.D
        M = np.zeros((len(part), D), np.float32)
        of: dict[int, list[int]] = {}  # rows by the first tile that they read
        recalled = bank.recalled() if (routes.route > 0).any() else {}
        for place, i in enumerate(part):
            if routes.route[i] > 0:
                edit = str(bank.keys[int(routes.route[i]) - 1].edit)
                M[place] = tophash.unpack(recalled[edit], D)
                of.setdefault(bank.tile.get(edit, 0), []).append(place)
        if not of:
            return nullcontext()
        masks = torch.from_numpy(M).to(live.Wm.device)[:, None, :]

        def delta(number: int, a: Tensor) -> Tensor:
            read = a.reshape(len(part), -1, D).to(masks) * masks
            added = read.new_zeros(*read.shape[:2], len(live.Wm))
            for tile, rows in of.items():
                added[rows] = read[rows] @ live.tile(tile + number).T
            return added

        return all_changed([self.site, *self.later], delta)


def _parts(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def check_fit(memory: Memory, base: BaseModel, size: tuple[int, int]) -> None:
    """Check that a memory belongs to a model; `size` is (D, d) of the model's sites.

    Raises:
        MismatchError: It does not.
    """
    pairs = (
        ("base model", memory.base.digest, base.digest, _fits(memory.base, base)),
        ("width (D, d)", (memory.D, memory.d), size, (memory.D, memory.d) == size),
    )
    for what, has, wants, same in pairs:
        if not same:
            raise MismatchError(
                f"the memory's {what} is {has}, the model's is {wants} "
                f"(memory of {memory.base.model_id}, model {base.id})",
                hint="use the model that the memory was made with",
            )


def _fits(wanted: Base, base: BaseModel) -> bool:
    # What earlier versions say costs a reading of the weights, so it is asked for last.
    return wanted.is_of(base.digest) or wanted.is_of(base.digest, base.former)


def edited(base: BaseModel, memory: Memory, router: Router | None = None) -> Edited:
    """A base model that answers with a memory; `router` made its keys, where they are codes.

    Raises:
        SiteError: The model has no such sites.
        MismatchError: The memory belongs to another model or router.
    """
    site, *later = find_sites(base.net, memory.sites)
    check_fit(memory, base, width(site))
    check_router(memory, router)
    return Edited(base, site, thaw(memory, device_of(site)), router=router, later=later)
