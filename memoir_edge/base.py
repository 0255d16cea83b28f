"""The base model as files: where they lie, which model they are, and what they say about it.

Knows nothing of what the weights mean; needs neither torch nor transformers.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memoir_edge.errors import InputError, first_line, install

_CHUNK = 1 << 22
_WEIGHTS = ("*.safetensors", "*.bin")  # the first pattern that matches anything counts
# Names of the longest sequence in `config.json`: most families, GPT-2 and its kin, MPT and DBRX.
_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")

ENCODER = "encoder_model.onnx"  # beside model.onnx, where a model is an encoder and a decoder
GENAI = "genai_config.json"  # a description for onnxruntime-genai
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
# What an export takes along from the model's folder.
COMPANIONS = (
    "config.json",
    "generation_config.json",
    GENAI,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
# All that a model or an export is loaded from, its weights and graph aside.
BESIDE = frozenset({*COMPANIONS, *TOKENIZERS, "merges.txt"})

UNBOUNDED = sys.maxsize  # context of a model that states none, as ALiBi models need not


def locate(model: str) -> Path:
    """The folder of a model: a local path, or a hub id that is fetched or found in the cache.

    A `.gguf` file, local or `org/name:FILE.gguf` of the hub, is converted to a folder once.

    Raises:
        InputError: Neither a folder nor a model that the hub or its cache can give.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.endswith(".gguf"):
        return _converted(model)
    if folder.exists() or model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise InputError(
            f"no model folder at {model}",
            hint="give a transformers folder, a .gguf file or a hub id like org/name",
        )
    ignored = ["*.gguf", "*.onnx*", "original/*"]
    return _fetched(model, lambda hub: hub.snapshot_download(model, ignore_patterns=ignored))


def _fetched(model: str, fetch: Callable[[Any], str]) -> Path:
    """What the hub gives of a model."""
    try:
        import huggingface_hub

        return Path(fetch(huggingface_hub))
    except ImportError as error:
        raise InputError(f"no folder {model}", hint=install("edit")) from error
    except Exception as error:  # the hub client raises a dozen unrelated types
        raise InputError(
            f"{model} is no folder here, and the hub did not give it: {first_line(error)}",
            hint="check the name, the network and your access, or give a local folder",
        ) from error


def _converted(model: str) -> Path:
    """The transformers folder made of a `.gguf` file, local or of the hub."""
    file = Path(model).expanduser()
    if not file.is_file():
        name, _, inside = model.partition(":")
        if name.count("/") != 1 or not inside:
            raise InputError(
                f"no .gguf file at {model}", hint="give its path, or org/name:FILE.gguf of the hub"
            )
        file = _fetched(model, lambda hub: hub.hf_hub_download(name, inside))
    try:
        from memoir_edge.editor.gguf import converted
    except ImportError as error:
        raise InputError(
            "reading a .gguf file needs PyTorch", hint='pip install "memoir-edge[edit]"'
        ) from error
    return converted(file)


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed `config.json` of a model folder.

    Raises:
        InputError: It is missing or no JSON object; of a PEFT adapter the hint says to merge it.
    """
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise InputError(
                f"{folder} holds a PEFT adapter and no model of its own",
                hint="merge it: AutoPeftModelForCausalLM.from_pretrained(DIR).merge_and_unload()"
                ".save_pretrained(MERGED), then give MERGED, with the tokenizer in it",
            )
        raise InputError(
            f"{folder} is no model folder: it holds no config.json",
            hint="give a folder written by save_pretrained",
        )
    return read_json(folder / "config.json")


def read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object; empty where there is no such file.

    Raises:
        InputError: The file cannot be read, or is no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds {type(found).__name__}, expected an object")
    return found


def context(config: Mapping[str, Any]) -> int:
    """Most tokens of a sequence, by the parsed `config.json`.

    Raises:
        InputError: It says something else than a number.

    >>> context({"max_position_embeddings": 4096})
    4096
    >>> context({"model_type": "bloom"}) == UNBOUNDED
    True
    """
    name = next((name for name in _CONTEXT if config.get(name)), None)
    if name is None:
        return UNBOUNDED
    try:
        return int(config[name])
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"config.json has {name} {config[name]!r}, expected a number of tokens"
        ) from error


def language(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a configuration says of the language model: all of it, or its `text_config`.

    A vision-language model has one; what defaults its `text_config` leaves out is not known here.

    >>> language({"model_type": "llava", "text_config": {"model_type": "llama"}})
    {'model_type': 'llama'}
    """
    found = config.get("text_config")
    return found if isinstance(found, dict) else config


def start_of_answer(config: Mapping[str, Any]) -> int | None:
    """The token that a decoder begins with whose prompt an encoder reads; None of a decoder alone.

    Args:
        config: The parsed `config.json`.

    Raises:
        InputError: It names no such token.

    >>> start_of_answer({"is_encoder_decoder": True, "decoder_start_token_id": 0})
    0
    >>> start_of_answer({"model_type": "llama"}) is None
    True
    """
    if not config.get("is_encoder_decoder"):
        return None
    start = config.get("decoder_start_token_id")
    if type(start) is not int:
        raise InputError(
            f"config.json of an encoder-decoder has decoder_start_token_id {start!r}, expected a "
            "token id"
        )
    return start


def check_tokenizer(folder: Path, hint: str) -> None:
    """Raise InputError unless transformers finds a tokenizer in a folder."""
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise InputError(f"{folder} holds no tokenizer: tokenizer.json not found", hint=hint)


def special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens by name; tokenizer_config.json wins over special_tokens_map.json.

    Raises:
        InputError: A file is no JSON object.
    """
    found = read_json(folder / "special_tokens_map.json")
    found |= read_json(folder / "tokenizer_config.json")
    texts = {k: v.get("content") if isinstance(v, dict) else v for k, v in found.items()}
    return {k: v for k, v in texts.items() if k.endswith("_token") and isinstance(v, str)}


def end_of_text(folder: Path, own: int | None) -> tuple[int, ...]:
    """Token ids that end a text: generation_config.json's, config.json's and the tokenizer's.

    The files of one model often name different ones, each for a reason; the first is the one that
    an edit is trained to end with.

    Args:
        folder: A model folder or an export directory.
        own: The tokenizer's end-of-text id.

    Raises:
        InputError: A file is no JSON object, or names something else than token ids.
    """
    every: list[int] = []
    for name in ("generation_config.json", "config.json"):
        found = read_json(folder / name).get("eos_token_id")
        ids = found if isinstance(found, list) else [] if found is None else [found]
        if not all(type(id) is int for id in ids):
            raise InputError(f"{folder / name} has eos_token_id {found!r}, expected token ids")
        every += ids
    return tuple(dict.fromkeys(every if own is None else [*every, own]))


def weights_digest(folder: Path, files: Sequence[Path] | None = None) -> str | None:
    """SHA-256 over the names and bytes of weight files; None where there are none.

    The same for every copy of the files, such as an encoder's; `model_digest` of
    memoir_edge.identity also knows a model that was saved otherwise.

    Args:
        folder: Where they lie.
        files: Which; default all that lie there.
    """
    if files is None:
        files = next((found for p in _WEIGHTS if (found := sorted(folder.glob(p)))), [])
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.stat().st_size.to_bytes(8, "little"))
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
