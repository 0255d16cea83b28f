"""A low-rank change of an encoder's layers, trained on relations: a small file, merged when loaded.

A sentence encoder tells subjects apart well and two relations of one subject badly. The change
teaches it the second; each linear layer of shape `[out, in]` has `A [r, in]` and `B [out, r]`, and
its weight becomes `weight + B A`. The merged encoder costs what it cost before.

A file holds `LAYER.A` and `LAYER.B` by the layer's name in the encoder's transformer, and says in
its metadata which encoder it was trained for. `tools/train_router.py` writes it.
"""

import functools
import hashlib
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from memoir_edge.errors import InputError, MismatchError
from memoir_edge.tophash import Floats

BASE = "memoir_edge.encoder"  # metadata: digest of the encoder's weights


class Adapter(NamedTuple):
    """A low-rank change and the encoder that it was trained for."""

    layers: dict[str, tuple[Floats, Floats]]  # A, B by layer
    base: str
    digest: str  # SHA-256 of the file


def read(path: Path) -> Adapter:
    """An adapter's file.

    Raises:
        InputError: It cannot be read or holds anything but pairs of A and B.
    """
    try:
        data = path.read_bytes()
        tensors = load(data)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except SafetensorError as error:
        raise InputError(f"{path} is no adapter: {error}") from error
    names = {name[:-2] for name in tensors}
    base = _metadata(path).get(BASE)
    if not names or base is None or tensors.keys() != {f"{n}.{x}" for n in names for x in "AB"}:
        raise InputError(
            f"{path} is no adapter: expected pairs of A and B and its encoder's digest"
        )
    layers = {
        n: (tensors[f"{n}.A"].astype(np.float32), tensors[f"{n}.B"].astype(np.float32))
        for n in sorted(names)
    }
    return Adapter(layers, base, hashlib.sha256(data).hexdigest())


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return dict(file.metadata() or {})


def write(path: Path, layers: dict[str, tuple[Floats, Floats]], base: str) -> None:
    """Write an adapter in half precision."""
    tensors = {
        f"{name}.{part}": np.ascontiguousarray(matrix, np.float16)
        for name, pair in layers.items()
        for part, matrix in zip("AB", pair, strict=True)
    }
    save_file(tensors, path, metadata={BASE: base})


@functools.cache
def shipped() -> dict[str, Path]:
    """The adapters that come with the package, by the digest of their encoder."""
    folder = Path(str(resources.files("memoir_edge.router"))) / "adapters"
    return {_metadata(path)[BASE]: path for path in sorted(folder.glob("*.safetensors"))}


def merge(adapter: Adapter, transformer: Any, digest: str) -> None:
    """Change an encoder's transformer in place.

    Raises:
        MismatchError: The adapter was trained for an encoder of another digest.
    """
    if adapter.base != digest:
        raise MismatchError(
            f"the adapter is of encoder {adapter.base[:12]}, this one is {digest[:12]}",
            hint="train one for this encoder, or use it without",
        )
    for name, (A, B) in adapter.layers.items():
        weight = transformer.get_submodule(name).weight.data
        weight += weight.new_tensor(B @ A)
