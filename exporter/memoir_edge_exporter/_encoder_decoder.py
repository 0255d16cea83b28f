"""A T5-like transformers folder as two graphs: an encoder, and a decoder with key-value cache.

Rules:
1. The decoder is optimum-onnx's of the task text2text-generation-with-past, the one with a past. A
   past without tokens is its first step, so that it is the only one. It gets an attention mask over
   its own tokens, without which rows of different lengths could not be in one batch.
2. The encoder gives what the decoder's blocks read of it, their keys and values, under the names of
   the decoder's inputs. So they are computed once for an answer, and their weights are stored once.

Imported when a model is exported, because it needs torch, transformers and optimum-onnx.
"""

from pathlib import Path
from typing import Any

import torch
from optimum.exporters.onnx import export
from optimum.exporters.tasks import TasksManager
from optimum.utils.save_utils import maybe_save_preprocessors
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM

from memoir_edge.base import ENCODER
from memoir_edge_exporter._trace import put_weights, weightless
from memoir_edge_exporter._write import GRAPH

TASK = "text2text-generation"


def encoder_and_decoder(model: Path, out: Path, opset: int) -> None:
    """Write `encoder_model.onnx`, `model.onnx` and the tokenizer's files to a folder.

    Args:
        model: A transformers folder.
        out: A folder.
        opset: Of both graphs.
    """
    net = AutoModelForSeq2SeqLM.from_pretrained(model, dtype=torch.float32, local_files_only=True)
    with weightless() as weights:
        export(model=net, config=_masked(net), output=out / GRAPH, opset=opset, device="cpu")
    put_weights(out / GRAPH, weights)
    with weightless() as weights, torch.no_grad():
        _trace_encoder(net, out / ENCODER, opset)
    put_weights(out / ENCODER, weights)
    maybe_save_preprocessors(model, out)


# --- Rule 1 --------------------------------------------------------------------------------------


def _masked(net: Any) -> Any:
    """What optimum is told of the decoder with a past: its own, and one input more."""
    known = TasksManager.get_exporter_config_constructor(
        exporter="onnx", model=net, task=TASK, library_name="transformers"
    )(net.config, use_past=True, use_past_in_inputs=True)

    class Masked(type(known)):  # type: ignore[misc]
        PAD_ATTENTION_MASK_TO_PAST = True

        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            axes = {0: "batch_size", 1: "past_decoder_sequence_length + decoder_sequence_length"}
            return {**super().inputs, "decoder_attention_mask": axes}

    return Masked(net.config, task=TASK).with_behavior(
        "decoder", use_past=True, use_past_in_inputs=True
    )


# --- Rule 2 --------------------------------------------------------------------------------------


class _Source(nn.Module):
    """The encoder, and what each block of the decoder reads of it."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.encoder = net.get_encoder()
        cross = [block.layer[1].EncDecAttention for block in net.decoder.block]
        self.parts = nn.ModuleList(part for each in cross for part in (each.k, each.v))
        self.heads: int = net.config.num_heads
        self.width: int = net.config.d_kv

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """`[B, S]` each, to keys and values of each block, `[B, heads, S, width]`."""
        read = self.encoder(input_ids, attention_mask=attention_mask, use_cache=False)
        hidden = read.last_hidden_state
        shape = (*input_ids.shape, self.heads, self.width)
        return tuple(part(hidden).view(shape).transpose(1, 2) for part in self.parts)


def _trace_encoder(net: Any, path: Path, opset: int) -> None:
    source = _Source(net).eval()
    names = [
        f"past_key_values.{i // 2}.encoder.{('key', 'value')[i % 2]}"
        for i in range(len(source.parts))
    ]
    tokens = {0: "batch_size", 1: "encoder_sequence_length"}
    crossed = {0: "batch_size", 2: "encoder_sequence_length"}
    torch.onnx.export(
        source,
        (
            {
                "input_ids": torch.tensor([[0, 1, 1], [1, 1, 0]]),
                "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
            },
        ),
        f=str(path),
        dynamo=False,
        opset_version=opset,
        input_names=["input_ids", "attention_mask"],
        output_names=names,
        dynamic_axes=dict.fromkeys(names, crossed)
        | {"input_ids": tokens, "attention_mask": tokens},
    )
