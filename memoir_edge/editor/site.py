"""The layer to edit: found in a model by its path, or by where and what it is."""

import re
from collections.abc import Sequence

from torch import Tensor, nn

from memoir_edge.errors import SiteError
from memoir_edge.sites import Config, at_depth, default_site, folded, listed, preset


def find_site(net: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path.

    Raises:
        SiteError: There is none, it is no linear layer, it is in an encoder, or it is the head that
            gives the logits; lists them.
    """
    try:
        site = net.get_submodule(path)
    except AttributeError:
        site = None
    if site is None or weight_of(site) is None:
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
    if site is net.get_output_embeddings():  # type: ignore[operator] # transformers' own
        raise SiteError(
            f"site {path!r} is the head, which writes no state but the logits",
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
        if weight_of(m) is not None and not re.search("attn|attention", name, re.IGNORECASE)
    }
    hidden = net.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
    down = [name for name, layer in linear.items() if width(layer)[1] == hidden < width(layer)[0]]
    return f"{path}.{index}.{down[0]}" if len(down) == 1 else None


def width(site: nn.Module) -> tuple[int, int]:
    """Input and output width `(D, d)` of a linear layer; a Conv1D's weight stands the other way."""
    weight = weight_of(site)
    assert weight is not None
    rows, columns = weight.shape
    return (columns, rows) if isinstance(site, nn.Linear) else (rows, columns)


def weight_of(module: nn.Module) -> Tensor | None:
    """The weight of a linear layer, GPT-2's Conv1D included; None of any other module."""
    weight = getattr(module, "weight", None)
    linear = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    return weight if linear and isinstance(weight, Tensor) and weight.ndim == 2 else None


def _summary(net: nn.Module) -> str:
    """Paths of layers that can be edited, in few words: `model.layers.{0..7}.mlp.down_proj`."""
    head = net.get_output_embeddings()  # type: ignore[operator] # transformers' own
    linear = (p for p, m in net.named_modules() if weight_of(m) is not None and m is not head)
    return listed(folded(linear))
