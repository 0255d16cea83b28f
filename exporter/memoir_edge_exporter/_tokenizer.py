"""The tokenizer's file beside a graph says all that transformers makes of a model's files.

transformers makes a tokenizer of several files: its class or a flag of `tokenizer_config.json` may
add a token or a space, and special tokens may be named there alone. The runtime and other hosts
read `tokenizer.json` and no more, and an edit is reached only by the tokens that it was made with.
"""

import json
from pathlib import Path
from typing import Any

from memoir_edge.base import read_json
from memoir_edge.errors import InputError, first_line
from memoir_edge_exporter._base_graph import quiet

FILE = "tokenizer.json"


def settle_tokenizer(model: Path, folder: Path) -> None:
    """Write the tokenizer anew where the copied files alone would give other tokens.

    What transformers cannot load, or is not installed to load, stays as it is: no edit was made
    with it.

    Args:
        model: The folder that an editor loads it from.
        folder: Where the files were copied to.

    Raises:
        InputError: The copied file is no tokenizer.
    """
    try:
        import tokenizers
        from transformers import AutoTokenizer
    except ImportError:
        return
    try:
        copied = tokenizers.Tokenizer.from_file(str(folder / FILE))
    except Exception as error:  # the library raises bare Exception
        raise InputError(
            f"the {FILE} of {model} is no tokenizer: {first_line(error)}",
            hint="is it torn? save it: AutoTokenizer.from_pretrained(...).save_pretrained(DIR)",
        ) from error
    with quiet():
        try:
            made = AutoTokenizer.from_pretrained(  # type: ignore[no-untyped-call]
                model, local_files_only=True
            )
            read = _reading(made.backend_tokenizer, made.pad_token)
        except Exception:  # of a class that is not known here, whatever its reader raises
            return
        said = read_json(folder / "special_tokens_map.json")
        said |= read_json(folder / "tokenizer_config.json")
        named = made.special_tokens_map.keys() & {"bos_token", "eos_token"}
        if read != _reading(copied, made.pad_token) or not named <= said.keys():
            made.save_pretrained(folder)


def _reading(tokenizer: Any, pad: str | None) -> dict[str, Any]:
    """What a text is read by; no prompt holds padding, and the runtime cuts and pads itself."""
    found: dict[str, Any] = json.loads(tokenizer.to_str())
    found["added_tokens"] = [each for each in found["added_tokens"] if each["content"] != pad]
    return found | {"truncation": None, "padding": None}
