"""The language model of a vision-language model, as a folder to be exported like any decoder's.

Imports torch and transformers when called.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memoir_edge.base import COMPANIONS, TOKENIZERS, end_of_text
from memoir_edge.errors import InputError, first_line
from memoir_edge_exporter._base_graph import EXTRA, quiet


@contextmanager
def language_folder(model: Path, beside: Path) -> Iterator[Path]:
    """While open, a folder with the language model alone, its weights as they are, and tokenizer.

    Args:
        model: The folder of a vision-language model.
        beside: Where there is room for a copy of the weights.

    Raises:
        InputError: PyTorch or transformers is missing, or the model is not like LLaVA.
    """
    try:
        from transformers import AutoTokenizer

        from memoir_edge.editor.vision import TRIED, language_model, load_whole
    except ImportError as error:
        raise InputError(
            f"exporting a vision-language model needs transformers ({error})", hint=EXTRA
        ) from error
    with tempfile.TemporaryDirectory(dir=beside.parent, prefix=f"{beside.name}.") as name:
        folder = Path(name)
        with quiet():
            try:
                whole = load_whole(model, "auto")
                tokenizer: Any = AutoTokenizer.from_pretrained(  # type: ignore[no-untyped-call]
                    model, local_files_only=True
                )
            except (OSError, ValueError, KeyError) as error:
                raise InputError(
                    f"cannot load a vision-language model from {model}: {first_line(error)}"
                ) from error
            eos = end_of_text(model, tokenizer.eos_token_id)
            language_model(whole, tokenizer(TRIED)["input_ids"], eos).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)  # what it says is a guess
        for file in {*COMPANIONS, *TOKENIZERS} - {"config.json"}:
            if (model / file).is_file():
                shutil.copyfile(model / file, folder / file)
        yield folder
