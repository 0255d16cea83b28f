"""What a model reads of a chat, a prompt and a target, the same in PyTorch and on ONNX Runtime."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

Encode = Callable[[str], list[int]]
Message = Mapping[str, Any]


def templated(
    render: Callable[[Sequence[Message]], str], messages: Sequence[Message], said: str
) -> str:
    """A chat as one text; with its texts as the parts of contents where a template reads no other.

    Templates of vision-language models read parts alone, and leave a plain text out.

    Args:
        render: The template.
        messages: The chat.
        said: What the text must show, if the template shows it either way.

    >>> parts = lambda chat: "".join(part["text"] for m in chat for part in m["content"])
    >>> templated(parts, [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "Hi")
    'Hi'
    """
    text = render(messages)
    if said not in text:
        with suppress(Exception):  # most templates do not take parts
            parted = render([_parted(message) for message in messages])
            return parted if said in parted else text
    return text


def _parted(message: Message) -> Message:
    content = message.get("content")
    if not isinstance(content, str):
        return message
    return {**message, "content": [{"type": "text", "text": content}]}


def split_target(
    encode: Encode, encode_bare: Encode, prompt: str, target: str, *, apart: bool = False
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of the target that follows it.

    The two are joined by a space. If the tokens of the joined text begin with the prompt's own, the
    rest are the target's. A tokenizer may instead merge characters across the border; the target is
    then encoded on its own, because the model will read the prompt as it stands alone. Where an
    encoder reads the prompt, the target begins a text.

    A space at the prompt's end is the one that joins them where that is a token of its own: many
    tokenizers have one before digits. What the model reads would else be the same as where the
    prompt ends before the space and the answer has begun, and something else would have to follow.

    Args:
        encode: Text to ids with the special tokens that the tokenizer adds.
        encode_bare: Text to ids without them.
        prompt: The prompt.
        target: The target, without a leading space.
        apart: An encoder reads the prompt.

    >>> letters = lambda text: [ord(letter) for letter in text]
    >>> split_target(letters, letters, "a", "b")
    ([97], [32, 98])
    """
    if apart:
        return encode(prompt), encode_bare(target)
    read, spaced = encode(prompt), prompt.endswith(" ")
    for both in map(encode, (f"{prompt}{target}", f"{prompt} {target}")[not spaced :]):
        if len(both) > len(read) and both[: len(read)] == read:
            return read, both[len(read) :]
    return read, encode_bare(f" {target}")


def routed(encode: Encode, text: str) -> tuple[list[int], int]:
    """A prompt's ids, and how many of them count for routing: those before spaces at its end.

    Such spaces say nothing of what is asked, and clients add them unawares; a feature that reads
    the last token would read nothing else. Where they are no tokens of their own, all ids count.

    Args:
        encode: Text to ids with the special tokens that the tokenizer adds.
        text: The prompt.

    >>> routed(lambda text: [ord(letter) for letter in text], "ab ")
    ([97, 98, 32], 2)
    """
    ids = encode(text)
    bare = encode(text.rstrip(" ")) if text.endswith(" ") and text.strip(" ") else ids
    return ids, len(bare) if ids[: len(bare)] == bare else len(ids)
