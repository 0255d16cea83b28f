"""The language model of a vision-language model, as a decoder of its own.

Rules:
1. Its modules are the whole's own, so that what is added at a site is added in both.
2. Its texts end as the whole's do, and its head is tied where the whole's is.
3. It answers a text as the whole does; that is tried when it is made. Some do not: in transformers
   4.57 PaliGemma reads a prompt in both directions.
"""

import copy
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from memoir_edge.errors import InputError, first_line
from memoir_edge.rope import as_installed

TRIED = "The capital of France is"  # a text that both must answer alike
_HINT = "LLaVA-like models can be edited: a decoder that also reads what a projector gives"
_TOLERANCE = 0.02  # of the largest logit; in bfloat16 the two may take other kernels


def load_whole(folder: Path, dtype: Any) -> Any:
    """A vision-language model with its vision tower, on the CPU.

    Raises:
        ValueError: transformers knows none of this type.
    """
    with as_installed(folder) as read:
        whole: Any = AutoModelForImageTextToText.from_pretrained(
            read, dtype=dtype, local_files_only=True
        )
    return whole.eval()


def language_model(whole: PreTrainedModel, tried: Sequence[int], eos: Sequence[int]) -> Any:
    """The causal language model within a vision-language model; no weight is copied.

    Args:
        whole: The vision-language model.
        tried: Token ids of a short text, which both must answer alike.
        eos: Token ids that end a text.

    Raises:
        InputError: It has none that transformers knows as a model of its own, or it does not answer
            as the whole does.
    """
    config = copy.deepcopy(whole.config.text_config)
    try:
        with torch.device("meta"):  # the weights come from the whole
            net = AutoModelForCausalLM.from_config(config, dtype=whole.dtype)  # type: ignore[no-untyped-call]
    except (ValueError, AttributeError) as error:
        raise InputError(
            f"the language model of {_name(whole)}, of type {config.model_type!r}, is none that "
            f"transformers knows by itself: {first_line(error)}",
            hint=_HINT,
        ) from error
    bodies = [(name, m) for name, m in net.named_children() if isinstance(m, PreTrainedModel)]
    found = [m for m in whole.modules() if bodies and type(m) is type(bodies[0][1])]
    if len(bodies) != 1 or len(found) != 1:
        raise InputError(
            f"{_name(whole)} has {len(found)} parts that could be its language model, expected one",
            hint=_HINT,
        )
    setattr(net, bodies[0][0], found[0])
    head = whole.get_output_embeddings()  # type: ignore[no-untyped-call]
    net.set_output_embeddings(head)
    embedding = found[0].get_input_embeddings()
    net.config.tie_word_embeddings = head.weight is embedding.weight
    net.config.eos_token_id = list(eos) or None
    _check_alike(whole, net.eval(), tried)
    return net


@torch.no_grad()
def _check_alike(whole: PreTrainedModel, net: Any, tried: Sequence[int]) -> None:
    """Raise InputError unless both give the same logits of a text."""
    ids = torch.tensor([list(tried)], device=whole.device)
    # A processor says so of a text where the model takes it, and PaliGemma then looks ahead.
    takes = inspect.signature(type(whole).forward).parameters
    more = {"token_type_ids": torch.zeros_like(ids)} if "token_type_ids" in takes else {}
    a = whole(input_ids=ids, use_cache=False, **more).logits.float()
    b = net(input_ids=ids, use_cache=False).logits.float()
    if (a - b).abs().max() > _TOLERANCE * a.abs().max():
        raise InputError(
            f"the language model of {_name(whole)} does not answer a text as the whole does",
            hint=_HINT,
        )


def own_config(net: nn.Module) -> dict[str, Any]:
    """What `config.json` of a language model would say, defaults of its type included."""
    said: str = net.config.to_json_string(use_diff=False)  # type: ignore[operator,union-attr]
    found: dict[str, Any] = json.loads(said)
    return found


def _name(whole: PreTrainedModel) -> str:
    return f"a vision-language model of type {whole.config.model_type!r}"
