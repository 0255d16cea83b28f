"""Which texts of a prompt a router reads, and which of them decides.

    texts, of = views(prompts, router.respelling(keys))    at least one text a prompt
    routes = tophash.route(router.codes(texts), ...)
    routes = decisive(routes, of)                      one decision a prompt

What is asked often stands behind something else; a sentence encoder reads the mean of both. So the
last sentence is read by itself too, in the same batch; and either once more with its typos put
right, if it has any. A chat that a client put into its template asks what its last user message
says. Labels, as in "Question: ... Answer:", are no part of what is asked, nor of a key. Knows
nothing of encoders.
"""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from memoir_edge.tophash import Ints, Routes

_END = re.compile(r"(?<=[.!?…])[\"'”’)]*\s+|\n+")
# Behind these a few words go on with a name ("St. Louis", "Acme Inc. Japan"), and are no sentence.
_ABBREVIATED = re.compile(
    r"(?<!\w)(?:[a-z]|mr|mrs|ms|dr|prof|st|mt|ft|jr|sr|inc|ltd|co|corp|bros|no|nr|vs|vol)\.$",
    re.IGNORECASE,
)
# Where a user's message begins and ends in the templates of chats: ChatML, Llama 3, Gemma, Phi and
# Zephyr, gpt-oss, DeepSeek, Mistral.
_BEGINS = re.compile(
    r"<\|im_start\|>user\n|<\|start_header_id\|>user<\|end_header_id\|>|<start_of_turn>user\n|"
    r"<\|user\|>|<\|start\|>user<\|message\|>|<｜User｜>|\[INST\]"
)
_ENDS = re.compile(
    r"<\|im_end\|>|<\|eot_id\|>|<end_of_turn>|<\|end\|>|<\|assistant\|>|</s>|<｜Assistant｜>|\[/INST\]"
)
_LABEL = re.compile(r"\s*(?:question|query|instruction|prompt|user|human|q)\s*:\s*", re.IGNORECASE)
_ANSWER = re.compile(r"(?<!\S)(?:answer|response|assistant|a)\s*:\s*$", re.IGNORECASE)
SHORTEST = 3  # words of a sentence that can ask something by itself


def views(
    prompts: Sequence[str], respell: Callable[[str], str] | None = None
) -> tuple[list[str], Ints]:
    """All texts to read, and the place of the prompt that each is of.

    Args:
        prompts: As they are asked.
        respell: Puts typos right; None: texts are read as they are typed.

    >>> texts, of = views(["Who runs Acme?", "It rained. Who runs Acme?"])
    >>> texts
    ['Who runs Acme?', 'It rained. Who runs Acme?', 'Who runs Acme?']
    >>> of.tolist()
    [0, 1, 1]
    """
    found: list[tuple[str, int]] = []
    for i, prompt in enumerate(prompts):
        typed = (bare(prompt), *asking(prompt))
        meant = map(respell, typed) if respell else ()
        found += [(text, i) for text in dict.fromkeys((*typed, *meant))]
    return [text for text, _ in found], np.array([i for _, i in found], np.int64)


def said(text: str) -> str:
    r"""The last user message of a chat in its template, stripped; empty where there is none.

    >>> said("<|im_start|>user\nWho runs Acme?<|im_end|>\n<|im_start|>assistant\n")
    'Who runs Acme?'
    >>> said("Who runs Acme?")
    ''
    """
    last = max((begin.end() for begin in _BEGINS.finditer(text)), default=len(text))
    return _ENDS.split(text[last:], maxsplit=1)[0].strip()


def message(text: str) -> str:
    """What somebody says: of a chat in its template the last user message, else the whole text."""
    return said(text) or text


def bare(text: str) -> str:
    r"""What a text asks: without a chat's template around it, and without labels.

    >>> bare("Question: Who runs Acme?\nAnswer:")
    'Who runs Acme?'
    >>> bare("Who runs Acme?")
    'Who runs Acme?'
    """
    asked = message(text)
    if label := _LABEL.match(asked):
        asked = _ANSWER.sub("", asked[label.end() :]).rstrip()
    return asked if asked.strip() else text


def asking(prompt: str) -> tuple[str, ...]:
    """The last sentence that can ask something by itself, where a prompt has several.

    >>> asking("It rained all day. The capital of France is")
    ('The capital of France is',)
    >>> asking("The capital of France is"), asking("The mayor of St. Louis is")
    ((), ())
    """
    sentences = _sentences(bare(prompt))
    long = [sentence for sentence in sentences if _long(sentence)]
    return (bare(long[-1]),) if len(sentences) > 1 and long else ()


def _sentences(text: str) -> list[str]:
    parts = [part.strip() for part in _END.split(text) if part and part.strip()]
    begins = [
        i
        for i, part in enumerate(parts)
        if not i or _long(part) or not _ABBREVIATED.search(parts[i - 1])
    ]
    return [" ".join(parts[i:j]) for i, j in pairwise([*begins, len(parts)])]


def _long(sentence: str) -> bool:
    return len(sentence.split()) >= SHORTEST


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
