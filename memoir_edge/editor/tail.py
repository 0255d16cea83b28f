"""The end of a model: a change at the last block's site is seen at its own place alone.

What is added to the site's output there is added to the output of the block, at the same position,
and no attention follows. So what a change does to the logits at a place follows from the block's
output at that place, and nothing else of the model need run. In some models, such as Gemma 3, the
site's output passes a norm first, which works place by place as well.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memoir_edge.editor.layer import Stop, blocks_of, changed, constant, decoded, head_writes
from memoir_edge.editor.model import BaseModel, collate
from memoir_edge.editor.site import width
from memoir_edge.editor.woven import weave

LOGITS = 1 << 20  # held at once, where those of all tokens are wanted
TRIED = 5  # tokens of the sequence that an architecture is tried on
CLOSE = 0.05  # largest difference that counts as rounding, in units of what was added
ROWS = ([0, 1, 2, 3, 4], [0, 1, 5, 6])  # that weaving is tried on


@dataclass
class Tail:
    """A model whose site is in its last block, and changes nothing but that block's output."""

    base: BaseModel
    site: nn.Module
    parent: nn.Module  # holds the blocks
    name: str  # by which it does
    rest: tuple[Any, ...] | None  # of the tuple in which a block's output comes first; None: alone
    behind: nn.Module | None = None  # a norm that the site's output passes before it is added
    weaves: bool = False  # whether rows may be read woven into one sequence (editor/woven.py)
    norm: nn.Module | None = None  # all that stands between the blocks and the LM head, if one does

    @property
    def block(self) -> nn.Module:
        """The last one."""
        found: nn.Module = getattr(self.parent, self.name)[-1]
        return found

    @torch.no_grad()
    def reach(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The site's input `[B, T, D]` and the last block's output `[B, T, d]`."""
        seen: list[Tensor] = []
        B, T = decoded(batch)[0].shape

        def look(_module: nn.Module, args: tuple[Tensor, ...], _output: Any) -> None:
            seen.append(args[0])

        def end(_module: nn.Module, _args: Any, output: Any) -> None:
            seen.append(_hidden(output))
            raise Stop

        with ExitStack() as stack:
            stack.callback(self.site.register_forward_hook(look).remove)
            stack.callback(self.block.register_forward_hook(end).remove)
            with suppress(Stop):
                self.base.net(**batch, use_cache=False)
        a, out = seen[-2:]
        return a.reshape(B, T, -1), out.reshape(B, T, -1)

    def moved(self, out: Tensor, own: Tensor, delta: Tensor) -> Tensor:
        """The block's outputs `[n, d]` when `delta [n, d]` is added to the site's.

        Args:
            out: The block's outputs as they are.
            own: The site's own, which are needed where a norm stands behind it.
            delta: What is added.
        """
        delta = delta.to(out)
        if self.behind is None:
            return out + delta
        moved: Tensor = out + self.behind(own + delta) - self.behind(own)
        return moved

    def logits(self, out: Tensor, ids: Tensor | slice | None = None) -> Tensor:
        """Logits `[n, V]` that follow from outputs `[n, d]` of the last block.

        Args:
            out: The outputs, of places that need not be of one text.
            ids: Tokens whose logits are wanted; default all.
        """
        with nullcontext() if ids is None else head_writes(self.base.net, ids):
            if self.norm is not None:
                logits: Tensor = self._head(self.norm(out[:, None]))
            else:
                logits = self._run_on(out[:, None])
        return logits[:, -1].float()

    @property
    def _head(self) -> nn.Module:
        found: nn.Module = self.base.net.get_output_embeddings()  # type: ignore[operator] # its own
        return found

    def _run_on(self, out: Tensor) -> Tensor:
        """All that the model does with outputs `[n, 1, d]` of its last block."""
        batch = collate(self.base, [[0]] * len(out), side="right")
        # Nor need an encoder run: no block reads what it gives.
        read = {} if self.base.start is None else {"encoder_outputs": (out,)}
        with self._giving(out):
            logits: Tensor = self.base.net(**batch, **read, use_cache=False).logits
        return logits

    def looks(self, out: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The logits of all tokens, some after others: the first one's id, and theirs `[n, .]`.

        All at once fill the memory where there are many places or tokens.
        """
        vocabulary, some = len(self._head.weight), max(LOGITS // len(out), 1)  # type: ignore[arg-type]
        for first in range(0, vocabulary, some):
            yield first, self.logits(out, slice(first, first + some))

    @contextmanager
    def _giving(self, out: Tensor) -> Iterator[None]:
        """While open, the last block gives this output, and no other block runs."""
        blocks, block = getattr(self.parent, self.name), self.block
        with ExitStack() as stack:
            stack.callback(setattr, self.parent, self.name, blocks)
            stack.enter_context(constant(block, out if self.rest is None else (out, *self.rest)))
            setattr(self.parent, self.name, blocks[-1:])
            yield


def tail_of(base: BaseModel, path: str) -> Tail | None:
    """The model's tail, if a memory at this site changes nothing before it.

    Whether that is so is tried: on a short text, with something added to the site's output in the
    middle of it. Where the site's output is scaled, or where more than the last block reads it,
    there is no tail.
    """
    found = blocks_of(base.net, path)
    site = base.net.get_submodule(path)
    if found is None or found[2] + 1 != len(getattr(found[0], found[1])):
        return None
    tail = Tail(base, site, *found[:2], rest=None)
    tail.rest = _rest(tail)
    tail.behind = _behind(tail)
    tail.weaves = _weaves(tail)
    if not _only_adds(tail):
        return None
    tail.norm = _norm(tail)
    return tail


@torch.no_grad()
def _rest(tail: Tail) -> tuple[Any, ...] | None:
    seen: list[Any] = []
    with tail.block.register_forward_hook(lambda _module, _args, output: seen.append(output)):
        tail.base.net(**collate(tail.base, [[0]], side="right"), use_cache=False)
    return seen[0][1:] if isinstance(seen[0], tuple) else None


@torch.no_grad()
def _behind(tail: Tail) -> nn.Module | None:
    """The module that is given the site's very output, if there is just one."""
    outputs: list[Tensor] = []
    found: list[nn.Module] = []

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        if any(x is outputs[-1] for x in args if outputs):
            found.append(module)

    with ExitStack() as stack:
        hook = tail.site.register_forward_hook(lambda _module, _args, y: outputs.append(y))
        stack.callback(hook.remove)
        for module in tail.block.modules():
            stack.callback(module.register_forward_pre_hook(look).remove)
        tail.base.net(**collate(tail.base, [[0]], side="right"), use_cache=False)
    return found[0] if len(found) == 1 else None


@torch.no_grad()
def _norm(tail: Tail) -> nn.Module | None:
    """The module that is given the last block's output, if the LM head then gives the logits."""
    net, found = tail.base.net, list[nn.Module]()
    out = torch.randn(1, 1, width(tail.site)[1], generator=torch.Generator().manual_seed(0))
    out = out.to(next(tail.block.parameters()))

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        if any(x is out for x in args):
            found.append(module)

    within = set(tail.block.modules())
    with ExitStack() as stack:
        for module in net.modules():
            if module not in within:
                stack.callback(module.register_forward_pre_hook(look).remove)
        logits = tail._run_on(out)
    if len(found) != 1:
        return None
    [norm] = found
    return norm if torch.equal(tail._head(norm(out)), logits) else None


@torch.no_grad()
def _weaves(tail: Tail) -> bool:
    """Whether the model follows a mask that says which token attends to which."""
    base, woven = tail.base, weave(ROWS)
    if "position_ids" not in base.takes:
        return False
    alone = torch.cat([tail.reach(collate(base, [row], side="right"))[0][0] for row in ROWS])
    at = [place for row in woven.places for place in row]

    def off(batch: dict[str, Tensor]) -> Tensor:
        return (tail.reach(batch)[0][0, at] - alone).abs().max()

    try:
        return bool(off(woven.batch(base)) <= CLOSE * off(collate(base, [woven.ids], side="right")))
    except (RuntimeError, ValueError, TypeError, IndexError):  # it takes no such mask
        return False


@torch.no_grad()
def _only_adds(tail: Tail) -> bool:
    batch = collate(tail.base, [list(range(TRIED))], side="right")
    a, out = tail.reach(batch)
    own, added = tail.site(a), torch.zeros_like(out)
    middle = TRIED // 2
    noise = torch.randn(out.shape[-1], generator=torch.Generator().manual_seed(0))
    scale = (out if tail.behind is None else own)[:, middle].float().std().cpu()
    added[:, middle] = (noise * scale).to(out)
    with changed(tail.site, lambda _: added):
        _, moved = tail.reach(batch)
        logits = tail.base.net(**batch, use_cache=False).logits[0].float()
    expected = tail.moved(out, own, added)
    follow = tail.logits(expected[0])
    size = (expected - out)[:, middle].float().square().mean().sqrt()
    return bool(((moved - expected).abs().max() <= CLOSE * size)
                and (follow - logits).abs().max() <= CLOSE * logits.std())  # fmt: skip


def _hidden(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found
