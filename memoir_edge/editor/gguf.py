"""A `.gguf` file as a transformers folder: dequantized once, kept in the cache.

Everything else (digest, export, evaluation) then sees an ordinary folder. transformers reads the
weights; the tokenizer is made here (editor/gguf_tokenizer.py).
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from memoir_edge import cache
from memoir_edge.editor.gguf_tokenizer import tokenizer
from memoir_edge.errors import InputError, first_line

_PART = "128MB"  # of the weights in a file: who loads them as another type holds one part twice


def converted(file: Path) -> Path:
    """The transformers folder of a `.gguf` file, in float32; made at the first call.

    Raises:
        InputError: No decoder that transformers reads, a tokenizer that is not known here, or
            package `gguf` is missing.
    """
    place = cache.folder() / "gguf" / f"{file.stem}-{_digest(file)[:16]}"
    return cache.made(place, lambda folder: _convert(file, folder))


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _convert(file: Path, folder: Path) -> None:
    about = _read(file)
    made = tokenizer(about)
    try:
        net = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(f"cannot load a decoder from {file}: {first_line(error)}") from error
    roles = {"bos": "bos", "eos": "eos", "pad": "padding"}
    for role, name in roles.items():
        token = about.get(f"tokenizer.ggml.{name}_token_id")
        for settings in (net.config, net.generation_config):
            setattr(settings, f"{role}_token_id", token)
    # transformers 5 takes it for quantized still, and would not save it.
    vars(net.config).pop("quantization_config", None)
    plain = AutoModelForCausalLM.from_config(net.config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    plain.load_state_dict(net.state_dict())
    plain.generation_config = net.generation_config
    plain.save_pretrained(folder, max_shard_size=_PART)
    made.save_pretrained(folder)


def _read(file: Path) -> dict[str, Any]:
    """The file's metadata by name."""
    try:
        import gguf
    except ImportError as error:
        raise InputError(
            f"reading {file} needs the package gguf", hint='pip install "memoir-edge[edit]"'
        ) from error
    try:
        fields = gguf.GGUFReader(file).fields
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is no .gguf file: {first_line(error)}") from error
    return {name: field.contents() for name, field in fields.items()}
