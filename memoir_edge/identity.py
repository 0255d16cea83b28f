"""Which model a folder holds: a digest of its tensors and of the configuration that shapes them.

Only the weights that a loader would take count, so what else lies in the folder does not. However
they are saved, the same numbers are the same model: in one file or in shards, as safetensors or
`.bin`, with tied copies or without, under a wrapper's prefix or not, in float32 or in the narrower
type that they came from. A vision-language model is its language model, which alone is edited and
exported: beside another vision tower it is the same, and saved by itself if its `text_config` says
how many heads there are. Needs neither torch nor transformers, but torch where weights are `.bin`.
"""

import hashlib
import json
import math
import mmap
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from memoir_edge.base import language, read_json, weights_digest
from memoir_edge.errors import InputError, install
from memoir_edge.rope import COPY, renamed
from memoir_edge.sites import HEADS

# What a loader looks for, in its order; an index names the file of each tensor.
_FILES = (
    "model.safetensors", "model.safetensors.index.json",
    "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
_WRAPPER = re.compile(r"^(?:model|transformer|gpt_neox|backbone)\.")
_LANGUAGE = re.compile(r"^(?:model\.)?(?:language_model|text_model)\.")
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output_layer)\.weight$")
_SHARED = "shared.weight"  # an encoder's and a decoder's embedding, which some save as theirs, too
_COPY = re.compile(r"^(?:encoder|decoder)\.embed_tokens\.weight$")
# Constants that some versions save among the weights, and others do not.
_CONSTANT = re.compile(r"\.(?:inv_freq|masked_bias|position_ids)$")
_CAUSAL = re.compile(r"\.(?:attn|attention)\.bias$")
# Bytes of a number, by its type; others have none of their own.
_WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
_CHUNK = 1 << 24  # bytes

Bytes = npt.NDArray[np.uint8]


class _Tensor(NamedTuple):
    name: str
    type: str  # as safetensors calls it
    shape: tuple[int, ...]
    data: Bytes  # [bytes], flat


def model_digest(folder: Path) -> str | None:
    """SHA-256 that tells a folder's model from all others; None where there are no weights.

    Args:
        folder: As transformers saves it, or a copy from a hub.

    Raises:
        InputError: A file of the weights is missing or cannot be read.

    Example:
        >>> from memoir_edge.demo.facts import model_dir
        >>> len(model_digest(model_dir()))
        64
    """
    config = read_json(folder / "config.json")
    part = language(config) is not config
    found = [
        (name, tensor.shape, _content(tensor))
        for tensor in _tensors(folder)
        if (name := _name(tensor, part=part)) and not _is_constant(tensor)
    ]
    if not found:
        return None
    times = Counter(content for *_, content in found)
    shared = {content for name, _, content in found if name == _SHARED}
    # A head that is tied to the embedding is saved with it or left out, and so are copies of it.
    kept = sorted(
        each
        for each in found
        if not (_HEAD.search(each[0]) and times[each[2]] > 1)
        and not (_COPY.search(each[0]) and each[2] in shared)
    )
    shaped = {"config": _shaping(language(config)), "tensors": kept}
    return hashlib.sha256(json.dumps(shaped, sort_keys=True).encode()).hexdigest()


def former_digests(folder: Path) -> tuple[str, ...]:
    """What earlier versions said of the same folder, with and without what lies beside the model.

    They took the names and bytes of all weight files.
    """
    found = weights_digest(folder), weights_digest(folder, weight_files(folder))
    return tuple(dict.fromkeys(digest for digest in found if digest))


def is_weights(path: Path) -> bool:
    """Whether a loader takes a file, or would if it were there, for weights of its folder's model.

    >>> from memoir_edge.demo.facts import model_dir
    >>> is_weights(model_dir() / "model.safetensors"), is_weights(model_dir() / "facts.safetensors")
    (True, False)
    """
    folder = path.parent
    return (folder / "config.json").is_file() and (
        path.name in _FILES or path.name in _places(folder).values()
    )


# --- What of it counts ---------------------------------------------------------------------------


def _name(tensor: _Tensor, *, part: bool) -> str | None:
    """A tensor's name without wrappers; None if it is not in the language model, a `part`."""
    if part and not (_LANGUAGE.search(tensor.name) or _HEAD.search(tensor.name)):
        return None
    name = _LANGUAGE.sub("", tensor.name) if part else tensor.name
    return _WRAPPER.sub("", name)


def _is_constant(tensor: _Tensor) -> bool:
    """Whether it follows from the configuration: some versions save it, others do not."""
    if _CAUSAL.search(tensor.name):
        return len(tensor.shape) == 4  # a mask [1, 1, T, T], no bias of a layer
    return bool(_CONSTANT.search(tensor.name))


def _content(tensor: _Tensor) -> str:
    """SHA-256 of the numbers; floats are widened to float32, which is exact."""
    digest, kind = hashlib.sha256(), tensor.type
    if kind not in ("F16", "BF16", "F32"):
        digest.update(kind.encode() + tensor.data.data)
        return digest.hexdigest()
    for start in range(0, len(tensor.data), _CHUNK):
        digest.update(_widened(tensor.data[start : start + _CHUNK], kind).data)
    return digest.hexdigest()


def _widened(part: Bytes, kind: str) -> npt.NDArray[Any]:
    if kind == "F16":
        return part.view("<f2").astype("<f4")
    if kind == "BF16":  # the upper half of a float32
        return part.view("<u2").astype("<u4") << np.uint32(16)
    return part


def _shaping(config: Mapping[str, Any]) -> list[Any]:
    """What a configuration adds to the tensors: a model may differ from another by this alone.

    Only what every version writes, or what has one meaning where it is absent.
    """
    config = renamed(config)
    rope, theta = dict(config.get("rope_scaling") or {}), config.get("rope_theta")
    try:
        base = 10000.0 if theta is None else float(theta)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"config.json has rope_theta {theta!r}, expected a number", hint=COPY
        ) from error
    rope["rope_type"] = rope.get("rope_type", rope.pop("type", "default"))
    rope.pop("type", None)
    heads = next((config[name] for name in HEADS if name in config), None)
    scaled = rope if rope["rope_type"] != "default" else {}
    return [config.get("model_type"), heads, base, scaled]


# --- Where the tensors are -----------------------------------------------------------------------


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder whose weights a loader takes; none where they have other names."""
    return sorted({folder / file for file in _places(folder).values()})


def _places(folder: Path) -> Mapping[str, str]:
    """The file of each tensor, as an index says; of a file that is alone, by the name ""."""
    name = next((name for name in _FILES if (folder / name).is_file()), None)
    if name is None:
        return {}
    if not name.endswith(".json"):
        return {"": name}
    places = read_json(folder / name).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise InputError(f"{folder / name} has no weight_map of tensors to files")
    return places


def _tensors(folder: Path) -> Iterator[_Tensor]:
    places = _places(folder)
    for file in weight_files(folder):
        if not file.is_file():
            raise InputError(
                f"{folder} lacks {file.name}, which its index names", hint="copy the model whole"
            )
        read = _pickled if file.suffix == ".bin" else _mapped
        for tensor in read(file):
            if "" in places or places.get(tensor.name) == file.name:
                yield tensor


def _mapped(file: Path) -> Iterator[_Tensor]:
    """The tensors of a safetensors file, none of them copied."""
    try:
        with file.open("rb") as stream:
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        size = 8 + int.from_bytes(data[:8], "little")
        for name, about in json.loads(data[8:size]).items():
            if name != "__metadata__":
                kind, shape = about["dtype"], tuple(about["shape"])
                begin, end = about["data_offsets"]
                width = _WIDTHS.get(kind)
                if not 0 <= begin <= end or (width and end - begin != width * math.prod(shape)):
                    raise ValueError(
                        f"{name} of type {kind} and shape {shape} has {end - begin} "
                        f"bytes from {begin} on"
                    )
                raw = np.frombuffer(data, np.uint8, end - begin, size + begin)
                yield _Tensor(name, kind, shape, raw)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is no safetensors file: {error}") from error


def _pickled(file: Path) -> Iterator[_Tensor]:
    """The tensors of a `.bin` file; what else is in it is not run."""
    try:
        from memoir_edge.editor.weights import unpickled
    except ImportError as error:
        raise InputError(f"reading {file.name} needs PyTorch", hint=install("edit")) from error
    return (_Tensor(*each) for each in unpickled(file))
