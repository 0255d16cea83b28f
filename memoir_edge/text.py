"""Where a prompt's tokens end and its target's begin; the same for training and for evaluation."""

from collections.abc import Callable

Encode = Callable[[str], list[int]]


def split_target(
    encode: Encode, encode_bare: Encode, prompt: str, target: str
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of the target that follows it.

    The text is `prompt + " " + target` (MEMOIR section 3). Where the prompt alone encodes to the
    beginning of that text's tokens, the rest is the target; where a tokenizer merges across the
    border, the target is encoded on its own, because at inference the prompt stands alone.

    Args:
        encode: Text to ids with the special tokens that the tokenizer adds.
        encode_bare: Text to ids without them.
        prompt: The prompt.
        target: The target, without a leading space.
    """
    read, both = encode(prompt), encode(f"{prompt} {target}")
    if len(both) > len(read) and both[: len(read)] == read:
        return read, both[len(read) :]
    return read, encode_bare(f" {target}")
