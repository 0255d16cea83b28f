"""A transformers folder as a decoder graph with key-value cache, by optimum-onnx."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

from memoir_edge.errors import InputError

EXTRA = 'pip install "memoir-edge-exporter[optimum]"'


def base_graph(model: Path, out: Path, dtype: str) -> None:
    """Export a model folder to `out`: model.onnx, configuration and tokenizer files.

    Args:
        model: A transformers folder.
        out: An empty folder.
        dtype: "fp32" or "fp16".

    Raises:
        InputError: optimum-onnx is missing, or does not know the architecture.
    """
    try:
        with _quiet():
            from optimum.exporters.onnx import main_export

            main_export(
                str(model),
                output=out,
                task="text-generation-with-past",
                dtype=dtype,
                device="cpu",
                do_validation=False,
                local_files_only=True,
            )
    except ImportError as error:
        raise InputError(
            f"exporting a transformers model needs optimum-onnx ({error})",
            hint=f"{EXTRA}, or give a graph exported elsewhere with --onnx DIR",
        ) from error
    except (ValueError, KeyError, OSError) as error:
        raise InputError(
            f"optimum-onnx cannot export {model}: {str(error).splitlines()[0]}",
            hint="export the decoder elsewhere and give its folder with --onnx DIR",
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Tracing warns about what it cannot know; whether the graph is right, the tests say."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
