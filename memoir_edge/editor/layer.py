"""The edited layer: reading its input and adding to its output, by hooks that remove themselves.

Nothing here changes a weight: every function leaves the base model as it was.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memoir_edge.editor.site import weight_of

# Given a, the layer's input: what to add to its output, [B, T, d]; None adds nothing. `a` is
# [B, T, D], or [B * T, D] where an architecture folds its tokens (OPT).
Delta = Callable[[Tensor], Tensor | None]


class Stop(Exception):  # noqa: N818 - control flow, not an error
    """The forward pass has reached the site, and the layers above it need not run."""


@contextmanager
def changed(site: nn.Module, delta: Delta) -> Iterator[None]:
    """While open, every run of `site` gives its own output plus `delta(a)`."""

    def hook(_module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
        added = delta(args[0])
        return y if added is None else y + added.to(y).reshape(y.shape)

    handle = site.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def all_changed(
    sites: Sequence[nn.Module], delta: Callable[[int, Tensor], Tensor | None]
) -> Iterator[None]:
    """The same for all sites of a memory; `delta` is also told the number of the site."""
    with ExitStack() as stack:
        for number, site in enumerate(sites):
            stack.enter_context(changed(site, partial(delta, number)))
        yield


@torch.no_grad()
def inputs_of(
    net: nn.Module, modules: Sequence[nn.Module], batch: dict[str, Tensor]
) -> list[Tensor]:
    """The inputs of modules, in their order, in a forward pass that ends at the last of them."""
    seen: dict[nn.Module, Tensor] = {}

    def look(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        seen[module] = args[0] if args else kwargs["hidden_states"]
        if module is modules[-1]:
            raise Stop

    with ExitStack() as stack, suppress(Stop):
        for module in modules:
            stack.callback(module.register_forward_pre_hook(look, with_kwargs=True).remove)
        net(**batch, use_cache=False)
    return [seen[module] for module in modules]


def input_of(net: nn.Module, module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The input of a module in a forward pass, which ends there: no layer above it runs."""
    return inputs_of(net, [module], batch)[0]


class Part(NamedTuple):
    """Rows of a batch that are run together up to the site."""

    rows: list[int]
    length: int  # tokens of the longest; what follows is padding


def decoded(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Ids and attention of what the decoder reads, `[B, T]` each: the site has as many places."""
    side = "decoder_" if "decoder_input_ids" in batch else ""
    return batch[f"{side}input_ids"], batch[f"{side}attention_mask"]


def part_of(batch: dict[str, Tensor], part: Part) -> dict[str, Tensor]:
    """A part of a batch; what an encoder reads beside it stays as long as it is."""
    own = [name for name in batch if name.startswith("decoder_")] or list(batch)
    return {n: x[part.rows, : part.length] if n in own else x[part.rows] for n, x in batch.items()}


@contextmanager
def resumed_at(
    net: nn.Module,
    path: str,
    batch: dict[str, Tensor],
    parts: Sequence[Part] = (),
    source: Sequence[int] | None = None,
) -> Iterator[Tensor]:
    """While open, a run of `net` on this batch begins at the site; gives the site's input.

    A memory changes nothing below its site, so that part is run only once, when this opens. The
    blocks below the site's are taken out until it closes. Within the site's own block, every linear
    layer up to the site returns the output that it gave then. All this needs to know of an
    architecture is that its blocks are one ModuleList; where they are not, every run is a whole
    one. So is one of an encoder-decoder: T5 tells places by its first block alone.

    Args:
        net: The model.
        path: The site.
        batch: Rows padded on the right, unless they are one part.
        parts: How the rows are run up to the site, so that little padding is; default all together.
        source: With this, the runs that follow have one row for each item, a copy of that row of
            the batch.

    Yields:
        `a`, `[rows, T, D]`, or `[rows * T, D]` where an architecture folds its tokens.
    """
    found = _resumable(net, path, batch)
    site = net.get_submodule(path)
    if found is None:
        yield input_of(net, site, _copied(batch, source))
        return
    parent, name, index = found
    blocks = getattr(parent, name)
    below = _run_up_to(net, blocks[index], site, batch, parts, source)

    def resume(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (below.hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": below.hidden}

    with ExitStack() as stack:
        stack.callback(setattr, parent, name, blocks)
        stack.callback(blocks[index].register_forward_pre_hook(resume, with_kwargs=True).remove)
        for module, output in below.outputs.items():
            stack.enter_context(constant(module, output))
        setattr(parent, name, blocks[index:])
        yield below.a


def site_input(
    net: nn.Module, path: str, batch: dict[str, Tensor], parts: Sequence[Part] = ()
) -> Tensor:
    """What `resumed_at` gives: the site's input, bit for bit."""
    found = _resumable(net, path, batch)
    site = net.get_submodule(path)
    if found is None:
        return input_of(net, site, batch)
    parent, name, index = found
    return _run_up_to(net, getattr(parent, name)[index], site, batch, parts, None).a


def _resumable(
    net: nn.Module, path: str, batch: dict[str, Tensor]
) -> tuple[nn.Module, str, int] | None:
    return None if "decoder_input_ids" in batch else blocks_of(net, path)


class _Below(NamedTuple):
    """What no memory changes."""

    hidden: Tensor  # the input of the site's block
    outputs: dict[nn.Module, Tensor]  # of each linear layer of that block up to the site
    a: Tensor  # the site's input


def _run_up_to(
    net: nn.Module,
    block: nn.Module,
    site: nn.Module,
    batch: dict[str, Tensor],
    parts: Sequence[Part],
    source: Sequence[int] | None,
) -> _Below:
    """Run parts of a batch up to the site, and put together what came of them."""
    B, T = batch["input_ids"].shape
    parts = parts or [Part(list(range(B)), T)]
    ran = [_part_up_to(net, block, site, part_of(batch, part)) for part in parts]

    def whole(found: Sequence[Tensor]) -> Tensor:
        full = found[0].new_zeros(B, T, found[0].shape[-1])
        for part, x in zip(parts, found, strict=True):
            full[part.rows, : part.length] = x.reshape(len(part.rows), part.length, -1)
        full = full if source is None else full[list(source)]
        return full if found[0].ndim == 3 else full.flatten(0, 1)

    return _Below(
        whole([each.hidden for each in ran]),
        {module: whole([each.outputs[module] for each in ran]) for module in ran[0].outputs},
        whole([each.a for each in ran]),
    )


@torch.no_grad()
def _part_up_to(
    net: nn.Module, block: nn.Module, site: nn.Module, batch: dict[str, Tensor]
) -> _Below:
    read: list[Tensor] = []
    given: dict[nn.Module, list[Tensor]] = {}

    def look(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        read.append(args[0] if args else kwargs["hidden_states"])

    def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        given.setdefault(module, []).append(output)
        if module is site:
            read.append(args[0])
            raise Stop

    with ExitStack() as stack:
        stack.callback(block.register_forward_pre_hook(look, with_kwargs=True).remove)
        for module in block.modules():
            if weight_of(module) is not None:
                stack.callback(module.register_forward_hook(keep).remove)
        with suppress(Stop):
            net(**batch, use_cache=False)
    # A layer that ran twice has two outputs: it is no constant, and goes on running.
    constant = {module: outputs[0] for module, outputs in given.items() if len(outputs) == 1}
    return _Below(read[0], constant, read[-1])


def _copied(batch: dict[str, Tensor], source: Sequence[int] | None) -> dict[str, Tensor]:
    return batch if source is None else {name: x[list(source)] for name, x in batch.items()}


def constant(module: nn.Module, output: Any) -> AbstractContextManager[None]:
    """While open, a module returns this output instead of computing one; its hooks still run."""
    return _computing(module, lambda *args, **kwargs: output)


@contextmanager
def _computing(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """While open, a module computes something else; its hooks still run."""
    former = vars(module).get("forward")  # accelerate puts its own there
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        del vars(module)["forward"]
        if former is not None:
            vars(module)["forward"] = former


@contextmanager
def head_reads(net: nn.Module, at: tuple[Tensor, Tensor]) -> Iterator[None]:
    """While open, only these `(rows, positions)` reach the LM head, so logits are `[len(rows), V]`.

    With a large vocabulary, the logits of all positions would be the largest tensor of all.
    """
    head = net.get_output_embeddings()  # type: ignore[operator] # transformers' own
    handle = head.register_forward_pre_hook(lambda _module, args: (args[0][at],))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def head_writes(net: nn.Module, ids: Tensor | slice) -> Iterator[None]:
    """While open, the LM head gives the logits of these token ids alone, `[len(ids)]` of each row.

    With a large vocabulary most of a training step is the head.
    """
    head = net.get_output_embeddings()  # type: ignore[operator] # transformers' own
    weight, bias = head.weight[ids], getattr(head, "bias", None)
    part = None if bias is None else bias[ids]
    with _computing(head, lambda x: nn.functional.linear(x, weight, part)):
        yield


def blocks_of(net: nn.Module, path: str) -> tuple[nn.Module, str, int] | None:
    """The ModuleList on the path to a site: its parent, its name, and the index of the block."""
    parts = path.split(".")
    for i, part in enumerate(parts[1:], start=1):
        parent = net.get_submodule(".".join(parts[: i - 1]))
        if part.isdigit() and isinstance(getattr(parent, parts[i - 1]), nn.ModuleList):
            return parent, parts[i - 1], int(part)
    return None
