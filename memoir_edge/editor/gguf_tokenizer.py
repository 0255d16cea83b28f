"""The tokenizer that a `.gguf` file describes, made of its own tokens.

transformers makes one, too, which adds tokens and loses digits on some models. Known are the two
sorts that most models have: byte-level BPE ("gpt2") with its merges, and SentencePiece's BPE
("llama"), whose merges follow from the scores of its tokens.
"""

from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast

from memoir_edge.errors import InputError

# How text is split before byte-level BPE, by the file's `tokenizer.ggml.pre`.
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_REGEX = {"llama-bpe": _WORDS % "{1,3}" + _SPACES, "qwen2": _WORDS % "" + _SPACES}
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
_SPLITS: dict[str, list[Any]] = {
    "gpt-2": [_BYTES],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), _BYTES],
} | {
    name: [
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    for name, pattern in _REGEX.items()
}
# Other names of the same splits.
_ALSO = {
    "gpt-2": ("olmo", "phi-2"),
    "smollm": ("codeshell", "command-r", "refact", "starcoder"),
    "llama-bpe": ("falcon3", "llama3", "llama-v3"),
    "qwen2": ("deepseek-r1-qwen", "stablelm2"),
}
_KNOWN = {also: name for name, others in _ALSO.items() for also in (name, *others)}
_NORMAL, _SPECIAL, _WHOLE = 1, 3, 4  # of `tokenizer.ggml.token_type`; the last are never parted
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's


class _Described(dict[str, Any]):
    """A file's metadata, of which what is missing is named."""

    def __missing__(self, name: str) -> Any:
        raise InputError(
            f"the .gguf file describes its tokenizer without {name}",
            hint="give the model's transformers folder instead",
        )


def tokenizer(about: dict[str, Any]) -> PreTrainedTokenizerFast:
    """The tokenizer that a `.gguf` file describes.

    Args:
        about: The file's metadata by name.

    Raises:
        InputError: A tokenizer of another sort, or one that is not described in full.
    """
    about = _Described(about)
    kind, split = (about.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if kind == "llama":
        made = _sentence_piece(about)
    elif kind == "gpt2" and split in _KNOWN:
        made = _byte_level(about, _KNOWN[split])
    else:
        raise InputError(
            f"the .gguf file's tokenizer is {kind!r} with {split!r}; known: SentencePiece's BPE "
            f"('llama') and byte-level BPE ('gpt2') with {', '.join(map(repr, _KNOWN))}",
            hint="give the model's transformers folder instead",
        )
    tokens: list[str] = about["tokenizer.ggml.tokens"]
    types: list[int] = about["tokenizer.ggml.token_type"]
    made.add_tokens(
        [
            AddedToken(token, special=type_ == _SPECIAL, normalized=False)
            for token, type_ in zip(tokens, types, strict=True)
            if type_ in (_SPECIAL, _WHOLE)
        ]
    )
    named = {
        f"{role}_token": tokens[i]
        for role, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if (i := about.get(f"tokenizer.ggml.{name}_token_id")) is not None
    }
    if about.get("tokenizer.ggml.add_bos_token", kind == "llama"):
        i = about["tokenizer.ggml.bos_token_id"]
        made.post_processor = processors.TemplateProcessing(
            single=f"{tokens[i]} $A", special_tokens=[(tokens[i], i)]
        )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=made,
        chat_template=about.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        **named,
    )


def _byte_level(about: dict[str, Any], split: str) -> Tokenizer:
    tokens: list[str] = about["tokenizer.ggml.tokens"]
    made = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=[tuple(pair.split(" ")) for pair in about["tokenizer.ggml.merges"]],
            ignore_merges=split == "llama-bpe",
        )
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(_SPLITS[split])
    made.decoder = decoders.ByteLevel()
    return made


def _sentence_piece(about: dict[str, Any]) -> Tokenizer:
    """Tokens are merged by their scores, and characters that none has are written as bytes."""
    tokens: list[str] = about["tokenizer.ggml.tokens"]
    unknown = about.get("tokenizer.ggml.unknown_token_id")
    made = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=_merges(about),
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = about.get("tokenizer.ggml.add_space_prefix", True)
    before = [normalizers.Prepend(_SPACE)] if prefix else []
    made.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", _SPACE)])
    behind = [decoders.Strip(" ", 1, 0)] if prefix else []
    made.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *behind]
    )
    return made


def _merges(about: dict[str, Any]) -> list[tuple[str, str]]:
    """All pairs of tokens that make a third, the likeliest of those first."""
    scores = {
        token: score
        for token, score, type_ in zip(
            about["tokenizer.ggml.tokens"],
            about["tokenizer.ggml.scores"],
            about["tokenizer.ggml.token_type"],
            strict=True,
        )
        if type_ == _NORMAL
    }
    found = [
        (token[:i], token[i:])
        for token in scores
        for i in range(1, len(token))
        if token[:i] in scores and token[i:] in scores
    ]
    return sorted(found, key=lambda pair: -scores["".join(pair)])
