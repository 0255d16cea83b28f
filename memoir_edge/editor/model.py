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
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from memoir_edge.answers import shown
from memoir_edge.base import (
    check_tokenizer,
    context,
    end_of_text,
    language,
    locate,
    read_config,
    start_of_answer,
)
from memoir_edge.editor.vision import TRIED, language_model, load_whole, own_config
from memoir_edge.errors import InputError, MemoirEdgeError, first_line, install
from memoir_edge.identity import former_digests, model_digest
from memoir_edge.rope import as_installed
from memoir_edge.sites import Config
from memoir_edge.text import routed, split_target
from memoir_edge.tophash import Ints


class Row(NamedTuple):
    """What is read, and what must follow.

    Where an encoder reads the prompt, that is the source, and `prompt` the decoder's start token.
    """

    prompt: list[int]
    target: list[int]
    source: Sequence[int] = ()


@dataclass(frozen=True)
class BaseModel:
    """A frozen decoder, or encoder-decoder, with its tokenizer.

    Of a vision-language model, the net is its language model, and so is all that is said here.
    """

    net: nn.Module
    tokenizer: PreTrainedTokenizerBase
    config: dict[str, Any]
    id: str
    digest: str | None
    context: int  # most tokens of a sequence
    eos: tuple[int, ...]
    folder: Path | None = None  # where it was loaded from
    start: int | None = None  # token of a decoder whose prompt an encoder reads
    whole: nn.Module | None = None  # the vision-language model that has the net's modules in it

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

    def row(self, ids: list[int], target: Sequence[int] = ()) -> Row:
        """A prompt's token ids as they are read, and the target's."""
        if self.start is None:
            return Row(ids, list(target))
        return Row([self.start], list(target), ids)

    def split(self, prompt: str, target: str) -> Row:
        """A prompt and the target that follows it, as token ids."""
        apart = self.start is not None
        return self.row(*split_target(self.encode, self.encode_bare, prompt, target, apart=apart))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out.

        Spaces before marks stay, whatever the tokenizer's configuration says: no other host takes
        them away, and "Qui est-ce ?" has one.
        """
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def shown(self, target: str) -> str:
        """What an answer shows of a target."""
        return shown(self.encode_bare, self.decode, target)


def counted(
    base: BaseModel, texts: Sequence[str], said: Sequence[str] | None = None
) -> tuple[dict[str, Tensor], Ints]:
    """Prompts as a batch flush right, and the tokens that count for routing: `[B, T]`, 1 or 0.

    Where an encoder reads the prompts, T is 1: the decoder's first token, which has seen all of it.

    Args:
        base: The model.
        texts: The prompts.
        said: Of each what it asks, where that stands behind something else, as in a chat: tokens
            before it do not count.
    """
    read = [routed(base.encode, text) for text in texts]
    batch = _prompts(base, [ids for ids, _ in read])
    if base.start is not None:
        return batch, np.ones((len(read), 1), np.int64)
    counts = batch["attention_mask"].cpu().numpy().copy()
    for row, (ids, end), text, asked in zip(counts, read, texts, said or texts, strict=True):
        start, begin = len(row) - len(ids), text.rfind(asked)
        row[start + end :] = 0
        if begin > 0:
            row[start : start + _alike(ids, base.encode(text[:begin]))] = 0
    return batch, counts


def _alike(some: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next(
        (i for i, (a, b) in enumerate(zip(some, others, strict=False)) if a != b),
        min(len(some), len(others)),
    )


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

    Of a vision-language model, the whole is loaded and its language model is what can be edited.

    Args:
        model: Path, hub id, or `org/name:FILE.gguf`.
        device: A torch device; default CUDA if there is a GPU. "auto" lets accelerate spread the
            model over all devices.
        dtype: Of the base weights; default float32 on a CPU, else the checkpoint's own. The memory
            is always float32.

    Raises:
        InputError: No such model, no tokenizer, a spoiled file, a device that is not there, or a
            vision-language model that is not like LLaVA or is to be spread over devices.
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
    start = start_of_answer(config)
    seeing = language(config) is not config
    if seeing and device == "auto":
        raise InputError(
            "a vision-language model cannot be spread over devices", hint="name one with --device"
        )
    net = _loaded(folder, config, device, dtype or (torch.float32 if slow else "auto"))
    net.requires_grad_(False)
    net.eval()
    whole = net if seeing else None
    if whole is not None:
        net = language_model(whole, list(tokenizer(TRIED)["input_ids"]), eos)
        config = own_config(net)
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
        start=start,
        whole=whole,
    )


def _loaded(folder: Path, config: Config, device: str, dtype: torch.dtype | str) -> Any:
    """What transformers makes of a folder, on its device.

    Raises:
        InputError: A spoiled file, or a device that is not there.
    """
    decoder = start_of_answer(config) is None
    kind = AutoModelForCausalLM if decoder else AutoModelForSeq2SeqLM
    try:
        if language(config) is not config:
            net = load_whole(folder, dtype)
        else:
            with as_installed(folder) as read:
                known = AutoConfig.from_pretrained(read, local_files_only=True)
            net = kind.from_pretrained(
                folder,
                config=known,
                dtype=dtype,
                local_files_only=True,
                device_map="auto" if device == "auto" else None,
            )
    except MemoirEdgeError:
        raise
    except Exception as error:  # a spoiled file raises whatever its reader does
        raise InputError(
            f"cannot load a language model from {folder}: {first_line(error)}",
            hint="is a file spoiled or missing? copy the model whole",
        ) from error
    try:
        if device != "auto":
            net = net.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"cannot use device {device!r}: {first_line(error)}", hint="pass --device cpu"
        ) from error
    return net


def _name(model: str, folder: Path) -> str:
    """What a model is called: its hub id, else the name of its folder or file."""
    if (given := Path(model).expanduser()).is_file():
        return given.stem
    return folder.resolve().name if folder == given else model


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    check_tokenizer(folder, "save it there with tokenizer.save_pretrained")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(  # type: ignore[no-untyped-call]
            folder, local_files_only=True
        )
    except Exception as error:  # of a spoiled file, tokenizers raises no narrower type
        raise InputError(
            f"cannot load the tokenizer of {folder}: {first_line(error)}",
            hint="is a file spoiled or missing? copy the model whole",
        ) from error
    return tokenizer


def collate(
    base: BaseModel,
    rows: Sequence[Sequence[int]],
    *,
    side: str,
    sources: Sequence[Sequence[int]] = (),
) -> dict[str, Tensor]:
    """Rows of ids as one padded batch: `input_ids`, `attention_mask`, `position_ids`, all `[B, T]`.

    Padding has id 0, mask 0 and position 0; positions count from the row's first real token. A
    model that tells positions by its attention alone (ALiBi) is given none.

    Of an encoder-decoder, `rows` are the decoder's, `decoder_input_ids` and
    `decoder_attention_mask` `[B, T]`, and `input_ids` and `attention_mask` `[B, S]` the encoder's.

    Args:
        base: The model.
        rows: What the decoder reads.
        side: Where shorter rows are padded.
        sources: What the encoder reads, if there is one; default a token, where it does not matter.
    """
    ids, attention = padded(rows, side)
    if base.start is None:
        batch = {"input_ids": ids, "attention_mask": attention}
        if "position_ids" in base.takes:
            batch["position_ids"] = (attention.cumsum(1) - 1).clamp(min=0)
    else:
        source, seen = padded(sources or [[0]] * len(rows), "right")
        batch = {
            "input_ids": source, "attention_mask": seen,
            "decoder_input_ids": ids, "decoder_attention_mask": attention,
        }  # fmt: skip
    return {name: tensor.to(base.device) for name, tensor in batch.items()}


def _prompts(base: BaseModel, prompts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Prompts' token ids as one batch, flush right."""
    rows = [base.row(list(ids)) for ids in prompts]
    sources = [row.source for row in rows]
    return collate(base, [row.prompt for row in rows], side="left", sources=sources)


def padded(rows: Sequence[Sequence[int]], side: str) -> tuple[Tensor, Tensor]:
    """Rows of ids, and which of them are no padding: `[B, T]` each."""
    T = max(map(len, rows))
    counts, place = torch.tensor([[len(row)] for row in rows]), torch.arange(T)
    padding = [[0] * (T - len(row)) for row in rows]
    if side == "right":
        filled = [[*row, *more] for row, more in zip(rows, padding, strict=True)]
        attention = (place < counts).long()
    else:
        filled = [[*more, *row] for row, more in zip(rows, padding, strict=True)]
        attention = (place >= T - counts).long()
    return torch.tensor(filled, dtype=torch.int64), attention


@torch.no_grad()
def greedy(
    base: BaseModel, rows: Sequence[Sequence[int]], max_new_tokens: int, *, stop: bool = True
) -> list[list[int]]:
    """Continue each row greedily, all rows together.

    Args:
        base: The model.
        rows: Token ids of the prompts.
        max_new_tokens: Most tokens a row grows by; the model's context may end all rows earlier.
        stop: End a row at end-of-text; otherwise it always grows by `max_new_tokens`.

    Returns:
        The new ids of each row, without end-of-text.
    """
    batch: dict[str, Any] = _prompts(base, rows)
    ids = batch["input_ids" if base.start is None else "decoder_input_ids"]
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
        batch = _behind(batch, ids, result)
    grown = torch.stack(out, dim=1).tolist() if out else [[] for _ in rows]
    return [[token for token in row if token >= 0] for row in grown]


def _behind(batch: dict[str, Any], ids: Tensor, result: Any) -> dict[str, Any]:
    """What is read behind a batch that gave a result: one token more, `ids` `[B, 1]`."""
    if "decoder_input_ids" in batch:  # the encoder need not run again, and no row is padded
        read = (result.encoder_last_hidden_state,)
        rest = {"attention_mask": batch["attention_mask"], "encoder_outputs": read}
        return {"decoder_input_ids": ids, **rest}
    attention = torch.cat([batch["attention_mask"], torch.ones_like(ids)], dim=1)
    after = {n: p[:, -1:] + 1 for n, p in batch.items() if n == "position_ids"}
    return {"input_ids": ids, "attention_mask": attention, **after}


def quiet() -> None:
    """Silence what transformers prints while loading: it would not help a user of this tool."""
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", module="transformers")
