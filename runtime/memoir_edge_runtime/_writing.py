"""Text that grows token by token and ends before a stop string.

Knows nothing of models: ids go in, text that is safe to show comes out. Shown text is never taken
back, so half a character and the possible beginning of a stop string are held back until more ids
have come.
"""

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that are no character (yet)


class Writer:
    """One row's text.

    Joined, the texts that `push` and `finish` return are `decode(all ids)`, cut before the first
    stop string.

    Args:
        decode: Ids, none of them special, to text.
        is_byte: Whether an id stands for a single byte, so that its text may still change.
        stop: Stop strings.
        before: The ids that the row stands behind; some decoders drop a space at the beginning of
            what they are given, and a row's first is none. No part of the text.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        is_byte: Callable[[int], bool],
        stop: Sequence[str] = (),
        before: Sequence[int] = (),
    ) -> None:
        self.stopped = False
        self.text = ""  # settled: no later token changes it
        self._decode, self._is_byte, self._stop = decode, is_byte, stop
        self._shown = 0  # characters of text
        # Only a window is decoded: the last settled ids (decoders treat a text's first id
        # differently, so new ids need a predecessor) and the ids that have not settled.
        self._window = list(before)
        self._known = decode(before) if before else ""  # text of the settled ids
        if not before or is_byte(before[-1]) or self._known.endswith(REPLACEMENT):
            self._window, self._known = [], ""  # a character may go on into the row
        self._settled = len(self._window)  # ids of the window

    def push(self, token: int) -> str:
        """Take one more id; return the text that can now be shown, often empty."""
        self._window.append(token)
        fresh = self._fresh()
        text = self.text + fresh
        cut = find_stop(text, len(self.text), self._stop)
        if cut is not None:
            self.stopped = True
            self.text, self._window, self._settled, self._known = text[:cut], [], 0, ""
            return self._show(cut)
        if not fresh.endswith(REPLACEMENT) and not self._is_byte(token):
            self._settle(text)
        return self._show(len(self.text) - held(self.text, self._stop))

    def finish(self) -> str:
        """Return the rest of the text: no further id will come."""
        self._settle(self.text + self._fresh())
        return self._show(len(self.text))

    def _fresh(self) -> str:
        """The text of the ids that have not settled."""
        return self._decode(self._window)[len(self._known) :] if self._window else ""

    def _settle(self, text: str) -> None:
        self.text = text
        self._window = self._window[self._settled :] or self._window
        self._settled = len(self._window)
        self._known = self._decode(self._window) if self._window else ""

    def _show(self, end: int) -> str:
        begin, self._shown = self._shown, max(self._shown, end)
        return self.text[begin:end]


def find_stop(text: str, known: int, stop: Sequence[str]) -> int | None:
    """Where the first complete stop string begins; None if there is none.

    The first is the one that ends first, so that it does not matter where tokens end.

    Args:
        text: The text.
        known: Length of the beginning in which no stop string ends.
        stop: Stop strings.

    >>> find_stop("one, two. three", 0, ["three", "two"])
    5
    """
    begins = ((s, text.find(s, max(0, known - len(s) + 1))) for s in stop)
    return min(((at + len(s), at) for s, at in begins if at >= 0), default=(0, None))[1]


def held(text: str, stop: Sequence[str]) -> int:
    """Length of the longest ending of the text that may be the beginning of a stop string.

    >>> held("one, t", ["two"])
    1
    """
    return max(
        (n for s in stop for n in range(1, len(s)) if text.endswith(s[:n])),
        default=0,
    )
