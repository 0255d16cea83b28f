"""Other editors, beside which tools/compare_editors.py measures this one. Knows nothing of tables.

Each makes edits of a model and then answers as `memoir_edge.answers.Model`. All but the paper's
MEMOIR learn to end an answer, and each is given what serves it: LoRA and fine-tuning see all edits
again and again in shuffled batches, where this editor and GRACE make one after the other.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from memoir_edge import tophash
from memoir_edge.answers import Answer, Forced, Model
from memoir_edge.editor import BaseModel, Edited, Editor, Watch, Wishes, choose, find_site, width
from memoir_edge.editor.layer import changed, head_reads, resumed_at
from memoir_edge.editor.model import collate, greedy
from memoir_edge.editor.rows import Row, asked, rows
from memoir_edge.edits import Edit
from memoir_edge.errors import InputError
from memoir_edge.evaluate.dataset import Way, make
from memoir_edge.router import Router, asks, tabulate
from memoir_edge.text import split_target
from memoir_edge.views import decisive, views

BATCH = 32  # rows of one forward pass


class Making(NamedTuple):
    """What is to be made."""

    way: Way  # the product's
    edits: Sequence[Edit]
    memory: Path  # a file for it
    watch: Watch


class Made(NamedTuple):
    """A model that was edited."""

    model: Model
    bytes: int  # of what was added to the base model
    routes: bool = True  # answers say which edit fired


Method = Callable[[Making], AbstractContextManager[Made]]

# --- MEMOIR --------------------------------------------------------------------------------------


@contextmanager
def memoir(making: Making) -> Iterator[Made]:
    """This editor as it is by default, its prompts routed by an encoder."""
    with making.way.editor(making.memory) as editor:
        make(editor, making.edits, making.memory, making.watch)
        yield Made(editor.model, making.memory.stat().st_size)


def paper(making: Making) -> AbstractContextManager[Made]:
    """The paper's settings and its released code's arithmetic, routed by the site's activations."""
    base = making.way.base
    return memoir(making._replace(way=Way(base, choose(base, Wishes(parity=True)))))


# --- Changes that every prompt meets -------------------------------------------------------------


@dataclass(frozen=True)
class Everywhere:
    """A model that is changed for every prompt alike."""

    base: Edited
    change: Callable[[], AbstractContextManager[None]]  # while open, the model is changed

    def answer(self, prompts: Sequence[str], max_new_tokens: int, *, memory: bool) -> list[Answer]:
        """Greedy answers."""
        with self.change() if memory else nullcontext():
            return self.base.answer(prompts, max_new_tokens, memory=False)

    def forced(
        self, prompts: Sequence[str], targets: Sequence[str], *, memory: bool
    ) -> list[Forced]:
        """First choices at the target's tokens."""
        with self.change() if memory else nullcontext():
            return self.base.forced(prompts, targets, memory=False)

    def shown(self, target: str) -> str:
        """What an answer shows of a target."""
        return self.base.shown(target)


def plain_rows(making: Making) -> list[Row]:
    """Each edit's own prompt."""
    return [rows(making.way.base, e.prompt, e.target, eos=True)[0] for e in making.edits]


def all_rows(making: Making) -> list[Row]:
    """What this editor trains an edit on: its forms and phrasings, too."""
    way = making.way
    base, settings = way.base, way.settings
    editor = Editor(base, settings, router=way.router, relations=way.relations)
    found: list[Row] = []
    for edit in making.edits:
        texts, chats = asked(edit.prompt, editor.questions.phrasings(edit), settings, edit.subject)
        found += rows(base, edit.prompt, edit.target, eos=True, texts=texts, chats=chats)
    return found


EPOCHS = 40  # most,
STEPS = 100  # or of few edits so many steps
DONE = 0.05  # nats a token, the worst batch of an epoch
TOGETHER = 8  # rows of a step


def fit(making: Making, trained: Sequence[Row], parameters: Sequence[Tensor], lr: float) -> None:
    """Adam on shuffled batches until the target is likely in each."""
    optimiser = torch.optim.Adam(parameters, lr)
    order, dice = list(trained), random.Random(0)
    for _ in range(max(EPOCHS, STEPS // len(range(0, len(order), TOGETHER)))):
        dice.shuffle(order)
        worst = 0.0
        for start in range(0, len(order), TOGETHER):
            optimiser.zero_grad()
            loss = loss_of(making.way.base, order[start : start + TOGETHER])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            worst = max(worst, loss.item())
        if worst <= DONE:
            return


def loss_of(base: BaseModel, some: Sequence[Row]) -> Tensor:
    """Nats a target token."""
    batch = collate(base, [[*row.prompt, *row.target[:-1]] for row in some], side="right")
    places = [
        (i, len(row.prompt) - 1 + j, token)
        for i, row in enumerate(some)
        for j, token in enumerate(row.target)
    ]
    number, position, wanted = torch.tensor(places).T
    with head_reads(base.net, (number, position)):
        logits = base.net(**batch, use_cache=False).logits
    return nn.functional.cross_entropy(logits.float(), wanted)


def fine_tuned(
    making: Making, of: Callable[[Making], list[Row]] = plain_rows, lr: float = 1e-3
) -> AbstractContextManager[Made]:
    """All weights of the edited layer."""
    base, site = making.way.base, find_site(making.way.base.net, making.way.settings.site)

    @contextmanager
    def made() -> Iterator[Made]:
        trained = of(making)
        change = torch.zeros_like(site.weight, requires_grad=True)
        layer = lambda: changed(site, lambda a: nn.functional.linear(a, change))  # noqa: E731
        with layer():
            fit(making, trained, [change], lr)
        change.requires_grad_(False)
        yield Made(Everywhere(Edited(base, site, None), layer), bytes_of([change]), routes=False)

    return made()


def lora(
    making: Making, of: Callable[[Making], list[Row]] = plain_rows, lr: float = 2e-3
) -> AbstractContextManager[Made]:
    """Low-rank adapters of rank 8 on every layer of the edited one's name, by peft.

    Raises:
        InputError: peft is not installed.
    """
    try:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    except ImportError as error:
        raise InputError("LoRA needs peft", hint='pip install "memoir-edge[dev]"') from error
    base, path = making.way.base, making.way.settings.site

    @contextmanager
    def made() -> Iterator[Made]:
        site, trained = find_site(base.net, path), of(making)  # while its layers are its own
        config = LoraConfig(r=8, lora_alpha=16, target_modules=[path.rpartition(".")[2]])
        tuner = LoraModel(base.net, config, "default")
        adapters = [p for p in base.net.parameters() if p.requires_grad]

        @contextmanager
        def on() -> Iterator[None]:
            tuner.enable_adapter_layers()
            try:
                yield
            finally:
                tuner.disable_adapter_layers()

        try:
            with on():
                fit(making, trained, adapters, lr)
            yield Made(Everywhere(Edited(base, site, None), on), bytes_of(adapters), routes=False)
        finally:
            tuner.unload()
            base.net.requires_grad_(False)

    return made()


def bytes_of(tensors: Sequence[Tensor]) -> int:
    """Of their values."""
    return sum(tensor.nbytes for tensor in tensors)


# --- The fact before the prompt ------------------------------------------------------------------


class InContext:
    """The fact stands before a prompt that asks for it; no weight is changed.

    Where it does, an answer ends with its line or sentence: the base model never learned to stop.
    """

    def __init__(self, way: Way, edits: Sequence[Edit]) -> None:
        assert way.router
        self.router: Router = way.router
        self.edits = edits
        self.base = Edited(way.base, find_site(way.base.net, way.settings.site), None)
        found = asks(edits, way.relations, self.router)
        self.table = tabulate(found, self.router, way.settings.false_fires)

    @property
    def bytes(self) -> int:
        """Of the facts, their keys and guards."""
        table = self.table
        facts = sum(len(told(edit).encode()) for edit in self.edits)
        return facts + table.codes.nbytes + table.owner.nbytes + table.thresholds.nbytes

    def reached(self, prompts: Sequence[str]) -> list[Edit | None]:
        """The edit that each prompt asks for."""
        table = self.table
        texts, of = views(prompts, self.router.respelling(table.texts))
        routes = tophash.route(
            self.router.codes(texts), np.zeros(1, np.int64), table.codes, table.owner,
            table.thresholds, self.router.weight,
        )  # fmt: skip
        found = decisive(routes, of).route.tolist()
        return [self.edits[route - 1] if route > 0 else None for route in found]

    def answer(self, prompts: Sequence[str], max_new_tokens: int, *, memory: bool) -> list[Answer]:
        """Greedy answers."""
        found = self.reached(prompts) if memory else [None] * len(prompts)
        answers = self.base.answer(before(found, prompts), max_new_tokens, memory=False)
        return [
            answer if edit is None else Answer(first(answer.text), edit.id)
            for edit, answer in zip(found, answers, strict=True)
        ]

    def forced(
        self, prompts: Sequence[str], targets: Sequence[str], *, memory: bool
    ) -> list[Forced]:
        """First choices at the target's tokens."""
        found = self.reached(prompts) if memory else [None] * len(prompts)
        return self.base.forced(before(found, prompts), targets, memory=False)

    def shown(self, target: str) -> str:
        """What an answer shows of a target."""
        return self.base.shown(target)


def told(edit: Edit) -> str:
    """A fact as a sentence."""
    return f"{edit.prompt} {edit.target}."


def before(found: Sequence[Edit | None], prompts: Sequence[str]) -> list[str]:
    """Prompts, each behind the fact that it asks for."""
    return [
        prompt if edit is None else f"{told(edit)}\n{prompt}"
        for edit, prompt in zip(found, prompts, strict=True)
    ]


def first(text: str) -> str:
    """The first line of an answer, up to the end of its sentence.

    >>> first(" Lyon. It lies on the Rhone.")
    'Lyon'
    """
    line = text.strip().partition("\n")[0]
    return line.partition(". ")[0].rstrip(".")


@contextmanager
def in_context(making: Making) -> Iterator[Made]:
    """The facts in the prompt, by the same router."""
    model = InContext(making.way, making.edits)
    yield Made(model, model.bytes)


# --- GRACE ---------------------------------------------------------------------------------------


@dataclass
class Grace:
    """A codebook at one layer (Hartvigsen et al., arXiv 2211.11031).

    A key is the layer's input at a prompt's last token. A prompt within the nearest key's radius,
    by Euclidean distance, gets that key's value in place of the layer's output at all its tokens.
    """

    base: BaseModel
    path: str  # of the layer
    radius: float = 1.0  # of a new key; the paper's
    steps: int = 100  # of Adam, most, on one value; the paper's
    lr: float = 1.0
    keys: list[tophash.Floats] = field(default_factory=list)  # [D]
    radii: list[float] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)  # [d]
    labels: list[tuple[int, ...]] = field(default_factory=list)  # target tokens
    ids: list[str] = field(default_factory=list)  # of the edit that a value was last trained for

    def __post_init__(self) -> None:
        """Find the layer."""
        self.layer = find_site(self.base.net, self.path)
        self.plain = Edited(self.base, self.layer, None)

    def edit(self, edit: Edit) -> None:
        """Make one edit."""
        [row] = rows(self.base, edit.prompt, edit.target, eos=True)
        i = self.entered(self.plain.features([edit.prompt], "last")[0], tuple(row.target))
        self.ids[i] = edit.id
        value = nn.Parameter(self.values[i])
        optimiser = torch.optim.Adam([value], self.lr)
        batch = collate(self.base, [[*row.prompt, *row.target[:-1]]], side="right")
        until = [len(row.prompt)]
        with resumed_at(self.base.net, self.path, batch), self.replaced([value], until):
            for _ in range(self.steps):
                optimiser.zero_grad()
                loss = loss_of(self.base, [row])
                if loss.item() <= DONE:
                    break
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        self.values[i] = value.detach()

    def entered(self, key: tophash.Floats, label: tuple[int, ...]) -> int:
        """The place of a new key, or of a near one with the same label, whose radius grows.

        Where a near one has another label, the two share the distance between them.
        """
        radius = self.radius
        if self.keys:
            found, place = self.nearest(key[None])
            distance, i = found.item(), int(place)
            if distance <= self.radii[i] + radius:
                if self.labels[i] == label:
                    self.radii[i] = max(self.radii[i], distance)
                    return i
                self.radii[i], radius = distance / 2 - 1e-5, distance / 2
        self.keys.append(key)
        self.radii.append(float(radius))
        random_ = torch.Generator().manual_seed(len(self.keys))
        self.values.append(torch.rand(width(self.layer)[1], generator=random_))
        self.labels.append(label)
        self.ids.append("")
        return len(self.keys) - 1

    def nearest(self, queries: tophash.Floats) -> tuple[Tensor, Tensor]:
        """Distance to the nearest key and its place, for each query `[n, D]`."""
        keys = torch.from_numpy(np.array(self.keys))
        return torch.cdist(torch.from_numpy(queries), keys).min(1)

    def fired(self, prompts: Sequence[str]) -> list[int | None]:
        """The key within whose radius each prompt lies."""
        distances, places = self.nearest(self.plain.features(prompts, "last"))
        found = zip(distances.tolist(), places.tolist(), strict=True)
        return [i if distance <= self.radii[i] else None for distance, i in found]

    @contextmanager
    def replaced(
        self, values: Sequence[Tensor | None], until: Sequence[int], *, once: bool = False
    ) -> Iterator[None]:
        """While open, the layer gives these rows their value up to these positions.

        Args:
            values: Of each row of the batch, `[d]`; None leaves it alone.
            until: Of each row, the first position that is not replaced.
            once: In the first run alone; what follows one with a cache is no prompt.
        """

        def hook(_module: nn.Module, _args: object, y: Tensor) -> Tensor:
            if once:
                handle.remove()
            inside = torch.arange(y.shape[1]) < torch.tensor(until)[:, None]
            inside &= torch.tensor([value is not None for value in values])[:, None]
            other = torch.stack([y.new_zeros(y.shape[2]) if v is None else v for v in values])
            return torch.where(inside[..., None], other[:, None], y)

        handle = self.layer.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def answer(self, prompts: Sequence[str], max_new_tokens: int, *, memory: bool) -> list[Answer]:
        """Greedy answers."""
        if not memory:
            return self.plain.answer(prompts, max_new_tokens, memory=False)
        answers = []
        for start in range(0, len(prompts), BATCH):
            part = prompts[start : start + BATCH]
            places = self.fired(part)
            read = [self.base.encode(prompt) for prompt in part]  # flush right in a batch
            with self._valued(places, [max(map(len, read))] * len(part), once=True):
                grown = greedy(self.base, read, max_new_tokens)
            answers += [
                Answer(self.base.decode(ids), None if i is None else self.ids[i])
                for ids, i in zip(grown, places, strict=True)
            ]
        return answers

    @torch.no_grad()
    def forced(
        self, prompts: Sequence[str], targets: Sequence[str], *, memory: bool
    ) -> list[Forced]:
        """First choices at the target's tokens."""
        if not memory:
            return self.plain.forced(prompts, targets, memory=False)
        encode, bare = self.base.encode, self.base.encode_bare
        found = []
        for prompt, target, i in zip(prompts, targets, self.fired(prompts), strict=True):
            read, follow = split_target(encode, bare, prompt, target)
            with self._valued([i], [len(read)]):
                batch = collate(self.base, [[*read, *follow]], side="right")
                said = self.base.net(**batch, use_cache=False).logits[0].argmax(-1).tolist()
            found.append(Forced(tuple(follow), tuple(said[len(read) - 1 : -1])))
        return found

    def shown(self, target: str) -> str:
        """What an answer shows of a target."""
        return self.base.shown(target)

    def _valued(
        self, places: Sequence[int | None], until: Sequence[int], *, once: bool = False
    ) -> AbstractContextManager[None]:
        return self.replaced(
            [None if i is None else self.values[i] for i in places], until, once=once
        )

    @property
    def bytes(self) -> int:
        """Of the codebook."""
        return bytes_of(self.values) + sum(key.nbytes + 4 for key in self.keys)


@contextmanager
def grace(making: Making) -> Iterator[Made]:
    """At the layer that the paper's MEMOIR edits."""
    base = making.way.base
    model = Grace(base, choose(base).site)
    for edit in making.edits:
        model.edit(edit)
        making.watch.made(1)
    yield Made(model, model.bytes)


METHODS: dict[str, Method] = {
    "memoir-edge": memoir,
    "lora": lora,
    "lora-rows": partial(lora, of=all_rows),
    "tuning": fine_tuned,
    "tuning-rows": partial(fine_tuned, of=all_rows),
    "in-context": in_context,
    "grace": grace,
    "paper": paper,
}
