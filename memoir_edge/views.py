"""Which texts of a prompt a router reads, and which of them decides.

    texts, of = views(prompts)                         at least one text a prompt
    routes = tophash.route(router.codes(texts), ...)
    routes = decisive(routes, of)                      one decision a prompt

What is asked often stands behind something else; a sentence encoder reads the mean of both. So the
last sentence is read by itself too, in the same batch. Knows nothing of encoders.
"""

import re
from collections.abc import Sequence

import numpy as np

from memoir_edge.tophash import Ints, Routes

_END = re.compile(r"(?<=[.!?…])[\"'”’)]*\s+|\n+")
SHORTEST = 3  # words of a sentence that can ask something by itself


def views(prompts: Sequence[str]) -> tuple[list[str], Ints]:
    """All texts to read, and the place of the prompt that each is of.

    >>> texts, of = views(["Who runs Acme?", "It rained. Who runs Acme?"])
    >>> texts
    ['Who runs Acme?', 'It rained. Who runs Acme?', 'Who runs Acme?']
    >>> of.tolist()
    [0, 1, 1]
    """
    found = [(text, i) for i, prompt in enumerate(prompts) for text in (prompt, *asking(prompt))]
    return [text for text, _ in found], np.array([i for _, i in found], np.int64)


def asking(prompt: str) -> tuple[str, ...]:
    """The last sentence that can ask something by itself, where a prompt has several.

    >>> asking("It rained all day. The capital of France is")
    ('The capital of France is',)
    >>> asking("The capital of France is")
    ()
    """
    sentences = [part.strip() for part in _END.split(prompt) if part and part.strip()]
    long = [sentence for sentence in sentences if len(sentence.split()) >= SHORTEST]
    return (long[-1],) if len(sentences) > 1 and long else ()


def decisive(routes: Routes, of: Ints) -> Routes:
    """The decision of each prompt: that of a text which reaches an edit, else of the nearest.

    Args:
        routes: Of each text, as `views` gave them.
        of: The place of its prompt; each place at least once, in order.

    Returns:
        `[n]`, one a prompt. Among texts that reach an edit the larger overlap wins, and among
        equals the whole prompt.
    """
    order = np.lexsort((-routes.overlap, routes.route <= 0, of))
    first = order[np.searchsorted(of[order], np.unique(of))]
    return Routes._make(column[first] for column in routes)
