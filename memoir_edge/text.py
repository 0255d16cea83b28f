"""Where a prompt's tokens end and its target's begin, the same for training and for evaluation."""

from collections.abc import Callable

Encode = Callable[[str], list[int]]


def split_target(
    encode: Encode, encode_bare: Encode, prompt: str, target: str
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of the target that follows it.

    The two are joined by a space. If the tokens of the joined text begin with the prompt's own, the
    rest are the target's. A tokenizer may instead merge characters across the border; the target is
    then encoded on its own, because the model will read the prompt as it stands alone.

    Args:
        encode: Text to ids with the special tokens that the tokenizer adds.
        encode_bare: Text to ids without them.
        prompt: The prompt.
        target: The target, without a leading space.

    >>> letters = lambda text: [ord(letter) for letter in text]
    >>> split_target(letters, letters, "a", "b")
    ([97], [32, 98])
    """
    read, both = encode(prompt), encode(f"{prompt} {target}")
    if len(both) > len(read) and both[: len(read)] == read:
        return read, both[len(read) :]
    return read, encode_bare(f" {target}")
