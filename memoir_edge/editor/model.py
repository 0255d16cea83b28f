"""A base model in PyTorch: loaded, frozen, and able to answer.

Knows nothing of edits or memories: a memory answers through a hook on the site (editor/recall.py).
"""

import functools
import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from memoir_edge.base import context, end_of_text, locate, read_config
from memoir_edge.errors import InputError, first_line, install
from memoir_edge.identity import former_digests, model_digest
from memoir_edge.text import routed
from memoir_edge.tophash import Ints


@dataclass(frozen=True)
class BaseModel:
    """A frozen decoder with its tokenizer."""

    net: nn.Module
    tokenizer: PreTrainedTokenizerBase
    config: dict[str, Any]
    id: str
    digest: str | None
    context: int  # most tokens of a sequence
    eos: tuple[int, ...]
    folder: Path | None = None  # where it was loaded from

    @functools.cached_property
    def former(self) -> tuple[str, ...]:
        """What earlier versions call the digest."""
        return () if self.folder is None else former_digests(self.folder)

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        return device_of(self.net.get_input_embeddings())  # type: ignore[operator]

    @functools.cached_property
    def takes(self) -> frozenset[str]:
        """Names of what the net's forward pass takes."""
        return frozenset(inspect.signature(type(self.net).forward).parameters)

    def encode(self, text: str) -> list[int]:
        """Token ids, with the special tokens that the tokenizer adds (BOS).

        A BOS that a rendered chat begins with is not doubled.
        """
        ids = list(self.tokenizer(text)["input_ids"])
        bos = self.tokenizer.bos_token_id
        return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids

    def encode_bare(self, text: str) -> list[int]:
        """Token ids without special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def counted(base: BaseModel, texts: Sequence[str]) -> tuple[dict[str, Tensor], Ints]:
    """Prompts as a batch flush right, and the tokens that count for routing: `[B, T]`, 1 or 0."""
    read = [routed(base.encode, text) for text in texts]
    batch = collate(base, [ids for ids, _ in read], side="left")
    counts = batch["attention_mask"].cpu().numpy().copy()
    for row, (ids, end) in zip(counts, read, strict=True):
        row[len(row) - len(ids) + end :] = 0
    return batch, counts


def device_of(module: nn.Module) -> torch.device:
    """The device a module computes on: its weights', unless accelerate moves those for each run."""
    hook = getattr(module, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    return next(module.parameters()).device if device is None else torch.device(device)


def unplanned() -> None:
    """From now on attention on a GPU does without cuDNN, in this process.

    cuDNN plans for each new shape, and an edit's rows and an answer's tokens are of new shapes all
    the time: planning took most of an edit (docs/benchmarks.md has the measurement).
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def load(model: str, *, device: str | None = None, dtype: torch.dtype | None = None) -> BaseModel:
    """Load a transformers folder, a `.gguf` file or a hub id.

    Args:
        model: Path, hub id, or `org/name:FILE.gguf`.
        device: A torch device; default CUDA if there is a GPU. "auto" lets accelerate spread the
            model over all devices.
        dtype: Of the base weights; default float32 on a CPU, else the checkpoint's own. The memory
            is always float32.

    Raises:
        InputError: No such model, no tokenizer, a spoiled file, or a device that is not there.
    """
    folder = locate(model)
    config = read_config(folder)
    tokenizer = _tokenizer(folder)
    eos = end_of_text(folder, tokenizer.eos_token_id)
    if device == "auto" and find_spec("accelerate") is None:
        raise InputError(
            "spreading a model over devices needs accelerate",
            hint=install("edit,spread"),
        )
    cuda = torch.cuda.is_available()
    device = device or ("cuda" if cuda else "cpu")
    slow = device == "cpu" or (device == "auto" and not cuda)
    try:
        net = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype or (torch.float32 if slow else "auto"),
            local_files_only=True,
            device_map="auto" if device == "auto" else None,
        )
        if device != "auto":
            net = net.to(device)  # type: ignore[arg-type] # transformers wraps torch's method
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"cannot use device {device!r}: {error}", hint="pass --device cpu"
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"cannot load a decoder from {folder}: {first_line(error)}") from error
    net.requires_grad_(False)
    net.eval()  # type: ignore[no-untyped-call]
    if not slow:
        unplanned()
    return BaseModel(
        net=net,
        tokenizer=tokenizer,
        config=config,
        id=_name(model, folder),
        digest=model_digest(folder),
        context=context(config),
        eos=eos,
        folder=folder,
    )


def _name(model: str, folder: Path) -> str:
    """What a model is called: its hub id, else the name of its folder or file."""
    if (given := Path(model).expanduser()).is_file():
        return given.stem
    return folder.resolve().name if folder == given else model


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise InputError(
            f"{folder} holds no tokenizer: tokenizer.json not found",
            hint="save it there with tokenizer.save_pretrained",
        )
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(  # type: ignore[no-untyped-call]
            folder, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load the tokenizer of {folder}: {error}") from error
    return tokenizer


def collate(base: BaseModel, rows: Sequence[Sequence[int]], *, side: str) -> dict[str, Tensor]:
    """Rows of ids as one padded batch: `input_ids`, `attention_mask`, `position_ids`, all `[B, T]`.

    Padding has id 0, mask 0 and position 0; positions count from the row's first real token. A
    model that tells positions by its attention alone (ALiBi) is given none.
    """
    T = max(map(len, rows))
    counts, place = torch.tensor([[len(row)] for row in rows]), torch.arange(T)
    padding = [[0] * (T - len(row)) for row in rows]
    if side == "right":
        padded = [[*row, *more] for row, more in zip(rows, padding, strict=True)]
        attention = (place < counts).long()
    else:
        padded = [[*more, *row] for row, more in zip(rows, padding, strict=True)]
        attention = (place >= T - counts).long()
    ids = torch.tensor(padded, dtype=torch.int64)
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    batch = {"input_ids": ids, "attention_mask": attention}
    if "position_ids" in base.takes:
        batch["position_ids"] = positions
    return {name: tensor.to(base.device) for name, tensor in batch.items()}


@torch.no_grad()
def greedy(
    base: BaseModel, rows: Sequence[Sequence[int]], max_new_tokens: int, *, stop: bool = True
) -> list[list[int]]:
    """Continue each row greedily, all rows together.

    Args:
        base: The model.
        rows: Token ids.
        max_new_tokens: Most tokens a row grows by; the model's context may end all rows earlier.
        stop: End a row at end-of-text; otherwise it always grows by `max_new_tokens`.

    Returns:
        The new ids of each row, without end-of-text.
    """
    batch = collate(base, rows, side="left")
    ids = batch["input_ids"]
    last = {"logits_to_keep": 1} if "logits_to_keep" in base.takes else {}
    eos = torch.tensor(base.eos if stop else (), dtype=torch.int64, device=ids.device)
    done = torch.zeros(len(rows), dtype=torch.bool, device=ids.device)
    out: list[Tensor] = []
    cache: Any = None
    for _ in range(min(max_new_tokens, base.context - ids.shape[1])):
        result = base.net(**batch, **last, past_key_values=cache, use_cache=True)
        cache = result.past_key_values
        ids = result.logits[:, -1].argmax(-1, keepdim=True)
        done = done | torch.isin(ids[:, 0], eos)
        out.append(torch.where(done, -1, ids[:, 0]))
        if bool(done.all()):
            break
        attention = torch.cat([batch["attention_mask"], torch.ones_like(ids)], dim=1)
        after = {n: p[:, -1:] + 1 for n, p in batch.items() if n == "position_ids"}
        batch = {"input_ids": ids, "attention_mask": attention, **after}
    grown = torch.stack(out, dim=1).tolist() if out else [[] for _ in rows]
    return [[token for token in row if token >= 0] for row in grown]


def quiet() -> None:
    """Silence what transformers prints while loading: it would not help a user of this tool."""
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", module="transformers")
