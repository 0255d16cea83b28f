"""The offline formula of a code as one torch module, to be traced. Imported when that is done."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from memoir_edge.router.codes import projection
from memoir_edge.router.encoder import Encoder


class Code(nn.Module):
    """Token ids to what TopHash reads."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = plain(encoder.module)
        W = projection(encoder.module.get_embedding_dimension(), encoder.bits)
        self.projection = nn.Linear(W.shape[0], W.shape[1], bias=False)
        self.projection.weight.data = torch.from_numpy(W).T.contiguous()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`[B, T]` each, 1 on tokens and 0 on padding, to `[B, P]`."""
        read = self.encoder({"input_ids": input_ids, "attention_mask": attention_mask})
        e = nn.functional.normalize(read["sentence_embedding"], dim=-1)
        code: Tensor = 1 + self.projection(e)
        return code


def plain(module: Any) -> Any:
    """A copy of a sentence encoder whose attention is written out in products, as exporters know.

    Its transformer is built anew: the kind of attention is chosen when it is made.
    """
    found = copy.deepcopy(module)
    transformer = found[0]
    net = transformer.auto_model
    written = type(net)._from_config(net.config, attn_implementation="eager")
    written.load_state_dict(net.state_dict())
    name = next(name for name, child in transformer.named_children() if child is net)
    setattr(transformer, name, written)
    return found
