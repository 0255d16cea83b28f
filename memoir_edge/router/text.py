"""Which text of a prompt is read. Knows nothing of encoders."""

import re

_END = re.compile(r"(?<=[.!?…])[\"'”’)]*\s+|\n+")
SHORTEST = 3  # words of a sentence that can ask something by itself


def views(text: str) -> tuple[str, ...]:
    """The text, and its last sentence where it has several.

    What is asked often stands behind something else; a sentence encoder reads the mean of both.

    >>> views("It rained all day. The capital of France is")
    ('It rained all day. The capital of France is', 'The capital of France is')
    >>> views("The capital of France is")
    ('The capital of France is',)
    """
    sentences = [part.strip() for part in _END.split(text) if part and part.strip()]
    long = [s for s in sentences if len(s.split()) >= SHORTEST]
    if len(sentences) < 2 or not long:
        return (text,)
    return (text, long[-1])
