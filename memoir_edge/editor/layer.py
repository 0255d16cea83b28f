"""The edited layer: reading its input and adding to its output, by hooks that remove themselves.

Nothing here changes a weight: every function leaves the base model as it was.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memoir_edge.errors import SiteError
from memoir_edge.sites import Config, at_depth, default_site, folded, listed, preset

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
            if _weight(module) is not None:
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


def find_site(net: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path.

    Raises:
        SiteError: There is none, it is no linear layer, or it is in an encoder; lists them.
    """
    try:
        site = net.get_submodule(path)
    except AttributeError:
        site = None
    if site is None or _weight(site) is None:
        found = "nothing" if site is None else type(site).__name__
        raise SiteError(
            f"site {path!r} names {found}, expected a linear layer",
            hint=f"linear layers of this model: {_summary(net)}",
        )
    if site not in set(decoder_of(net).modules()):
        raise SiteError(
            f"site {path!r} is not in the decoder, whose layers alone can be edited",
            hint=f"linear layers of this model: {_summary(net)}",
        )
    return site


def find_sites(net: nn.Module, paths: Sequence[str]) -> tuple[nn.Module, ...]:
    """The modules at the paths of a memory's sites.

    Raises:
        SiteError: One is no linear layer of the decoder; or they are of different widths, or not in
            the model's order, each once.
    """
    found = tuple(find_site(net, path) for path in paths)
    widths = {path: width(site) for path, site in zip(paths, found, strict=True)}
    if len(set(widths.values())) > 1:
        told = ", ".join(f"{path} is {D} to {d}" for path, (D, d) in widths.items())
        raise SiteError(
            f"sites of one memory have the same widths, but {told}",
            hint="name layers of the same kind, such as the down-projections of several blocks",
        )
    if list(paths) != in_order(net, paths):
        raise SiteError(
            f"sites are {' and '.join(paths)}, expected each once, in the model's order",
            hint=f"name them so: --site {','.join(in_order(net, paths))}",
        )
    return found


def in_order(net: nn.Module, paths: Sequence[str]) -> list[str]:
    """Layers' paths in the model's order, each once; what is not there comes last."""
    place = {path: i for i, (path, _) in enumerate(net.named_modules())}
    return sorted(dict.fromkeys(paths), key=lambda path: place.get(path, len(place)))


def decoder_of(net: nn.Module) -> nn.Module:
    """The decoder of an encoder-decoder; all of any other model."""
    if not getattr(getattr(net, "config", None), "is_encoder_decoder", False):
        return net
    found: nn.Module = net.get_decoder()  # type: ignore[operator] # transformers' own
    return found


def choose_site(net: nn.Module, config: Config, *, coded: bool = False) -> str:
    """The layer to edit: by the table of architectures, else by structure.

    Args:
        net: A decoder.
        config: Its parsed `config.json`.
        coded: A router's codes decide which edit a prompt reaches.

    Raises:
        SiteError: The architecture is unknown and no layer stands out; lists the linear layers.
    """
    try:
        return default_site(config, coded=coded)
    except SiteError as error:
        site = structural_site(net, preset(config, coded=coded).depth)
        if site is None:
            hint = f"name the down-projection to edit with --site; linear layers: {_summary(net)}"
            raise SiteError(str(error), hint=hint) from error
        return site


def structural_site(net: nn.Module, depth: float) -> str | None:
    """The down-projection of an unknown architecture, by its shape; None unless there is just one.

    It is the one linear layer, in the block at `depth`, whose output has the model's width and
    whose input is wider. The output projection of attention is not meant: in some models, such as
    Gemma 3, its heads together are wider than the model.

    Args:
        net: A decoder whose blocks are one ModuleList.
        depth: Share of the blocks that lie below, from 0 to 1.
    """
    blocks_in = set(decoder_of(net).modules())
    lists = [
        (p, m) for p, m in net.named_modules() if isinstance(m, nn.ModuleList) and m in blocks_in
    ]
    if not lists:
        return None
    path, blocks = max(lists, key=lambda item: len(item[1]))
    index = at_depth(depth, len(blocks))
    block = blocks[index]
    linear = {
        name: m
        for name, m in block.named_modules()
        if _weight(m) is not None and not re.search("attn|attention", name, re.IGNORECASE)
    }
    hidden = net.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
    down = [name for name, layer in linear.items() if width(layer)[1] == hidden < width(layer)[0]]
    return f"{path}.{index}.{down[0]}" if len(down) == 1 else None


def width(site: nn.Module) -> tuple[int, int]:
    """Input and output width `(D, d)` of a linear layer, GPT-2's transposed Conv1D included."""
    weight = _weight(site)
    assert weight is not None
    rows, columns = weight.shape
    return (columns, rows) if isinstance(site, nn.Linear) else (rows, columns)


def _weight(module: nn.Module) -> Tensor | None:
    weight = getattr(module, "weight", None)
    linear = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    return weight if linear and isinstance(weight, Tensor) and weight.ndim == 2 else None


def _summary(net: nn.Module) -> str:
    """The linear layers' paths in few words, such as `model.layers.{0..7}.mlp.down_proj`."""
    linear = (path for path, module in net.named_modules() if _weight(module) is not None)
    return listed(folded(linear))
