"""A `.gguf` file as a transformers folder: dequantized once, kept in the cache.

Everything else (digest, export, evaluation) then sees an ordinary folder. transformers reads the
weights. Its tokenizer for such files adds tokens and loses digits on some models, so the tokenizer
is made here, of the file's own tokens and merges.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from memoir_edge import cache
from memoir_edge.errors import InputError, first_line

# How text is split before byte-level BPE, by the file's `tokenizer.ggml.pre`.
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_REGEX = {"llama-bpe": _WORDS % "{1,3}" + _SPACES, "qwen2": _WORDS % "" + _SPACES}
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
_SPLITS: dict[str, list[Any]] = {
    "gpt-2": [_BYTES],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), _BYTES],
} | {
    name: [
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    for name, pattern in _REGEX.items()
}
_SPECIAL = 3  # of `tokenizer.ggml.token_type`


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
    plain.save_pretrained(folder)
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


def tokenizer(about: dict[str, Any]) -> PreTrainedTokenizerFast:
    """The byte-level BPE tokenizer that a `.gguf` file describes.

    Args:
        about: The file's metadata by name.

    Raises:
        InputError: A tokenizer of another sort.
    """
    kind, split = (about.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if kind != "gpt2" or split not in _SPLITS:
        raise InputError(
            f"the .gguf file's tokenizer is {kind!r} with {split!r}; known: byte-level BPE "
            f"('gpt2') with {', '.join(map(repr, _SPLITS))}",
            hint="give the model's transformers folder instead",
        )
    tokens: list[str] = about["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in about["tokenizer.ggml.merges"]]
    bpe = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=merges,
            ignore_merges=split == "llama-bpe",
        )
    )
    bpe.pre_tokenizer = pre_tokenizers.Sequence(_SPLITS[split])
    bpe.decoder = decoders.ByteLevel()
    types: list[int] = about["tokenizer.ggml.token_type"]
    bpe.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, type_ in zip(tokens, types, strict=True)
            if type_ == _SPECIAL
        ]
    )
    named = {
        f"{role}_token": tokens[i]
        for role, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if (i := about.get(f"tokenizer.ggml.{name}_token_id")) is not None
    }
    if about.get("tokenizer.ggml.add_bos_token"):
        bos = named["bos_token"]
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokens.index(bos))]
        )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        chat_template=about.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        **named,
    )
