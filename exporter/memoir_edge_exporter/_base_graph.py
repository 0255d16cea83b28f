"""A transformers folder as a decoder graph with key-value cache, by optimum-onnx.

An encoder-decoder becomes two graphs, in _encoder_decoder.py.

Knows nothing of memories. optimum, torch and transformers are imported here alone, when called.
"""

import contextlib
import inspect
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memoir_edge.base import read_config, start_of_answer
from memoir_edge.errors import InputError, first_line, install
from memoir_edge.rope import as_installed
from memoir_edge_exporter._write import GRAPH

OPSET = 18
TASK = "text-generation"
ELSEWHERE = "export the decoder with another tool and give its folder with --onnx DIR"
EXTRA = f"{install('export')}; or {ELSEWHERE}"


def base_graph(model: Path, out: Path, dtype: str) -> None:
    """Export a model folder to `out`: model.onnx, configuration and tokenizer files.

    Large weights lie beside the graph, in model.onnx.data. Of an encoder-decoder, model.onnx is the
    decoder, and encoder_model.onnx stands beside it.

    Args:
        model: A transformers folder.
        out: A folder.
        dtype: "fp32" or "fp16".

    Raises:
        InputError: optimum-onnx is missing, or cannot export this model.
    """
    two = start_of_answer(read_config(model)) is not None
    try:
        with quiet():
            if two:
                from memoir_edge_exporter._encoder_decoder import encoder_and_decoder

                encoder_and_decoder(model, out, OPSET)
                return
            from optimum.exporters.onnx import main_export

            from memoir_edge_exporter._trace import put_weights, weightless

            with weightless() as weights, as_installed(model) as read:
                main_export(
                    str(read),
                    output=out,
                    task=f"{TASK}-with-past",
                    opset=OPSET,
                    dtype=dtype,
                    device="cpu",
                    do_validation=False,
                    local_files_only=True,
                    custom_onnx_configs=_positioned(read, dtype),
                )
            put_weights(out / GRAPH, weights)
    except ImportError as error:
        raise InputError(
            f"exporting a transformers model needs optimum-onnx ({error})", hint=EXTRA
        ) from error
    except InputError:
        raise
    except Exception as error:  # optimum, torch and ONNX Runtime raise what they like
        mixed = "bound to different types" in str(error)
        reason = "its graph mixes float16 and float32" if mixed else first_line(error)
        raise InputError(
            f"optimum-onnx cannot export {model} as {dtype}: {reason}",
            hint=f"export it in fp32; or {ELSEWHERE}" if dtype == "fp16" else ELSEWHERE,
        ) from error


def _positioned(model: Path, dtype: str) -> dict[str, Any]:
    """What optimum is told of a model that it does not feed positions: that, too; else nothing.

    Without them a graph counts columns of its cache, padding included, as it does for Gemma. What
    was read of a row is then bound to its columns, and rows of different lengths cannot meet.
    """
    from optimum.exporters.tasks import TasksManager
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    config = AutoConfig.from_pretrained(model, local_files_only=True)
    known = TasksManager.get_exporter_config_constructor(
        exporter="onnx", model_type=config.model_type, task=TASK, library_name="transformers"
    )(config, use_past=True, use_past_in_inputs=True, float_dtype=dtype)
    net: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    taken = "position_ids" in inspect.signature(net.forward).parameters
    if not taken or "position_ids" in known.inputs:
        return {}

    class Positioned(type(known)):  # type: ignore[misc]
        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            return {**super().inputs, "position_ids": {0: "batch_size", 1: "sequence_length"}}

    made = Positioned(
        config, task=known.task, use_past=True, use_past_in_inputs=True, float_dtype=dtype
    )
    return {"model": made}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of tracing: the tests check whether the graph is right."""
    from transformers.utils import logging as progress

    barred = progress.is_progress_bar_enabled()
    progress.disable_progress_bar()  # type: ignore[no-untyped-call]
    before, handlers = logging.root.manager.disable, logging.root.handlers[:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
            if barred:
                progress.enable_progress_bar()  # type: ignore[no-untyped-call]
            logging.root.handlers[:] = handlers  # a library's module may have set its own up
