"""Words with a typo put right: what was meant by what was typed, as far as the words are known.

    spelling = Spelling(tokenizer.get_vocab())
    spelling("What is the captial of Lyonesse?")              # What is the capital of Lyonesse?
    respell = spelling.knowing(["The ruler of Lyonesse is"])  # what a memory's keys say
    respell("Who is the rule rof Lyonsese?")                  # Who is the ruler of Lyonesse?

A sentence encoder's tokenizer takes a word that it does not know to pieces, and the pieces of a
mistyped word mean nothing. A word is known if the tokenizer has it whole, or a text that may be
asked for. Any other is exchanged for one that is a single slip away: two neighbouring letters
swapped, else a letter too few, too many or wrong. Among several, words of the texts come first,
then the commonest, since vocabularies begin with what is common. A space is a letter, too. A wrong
letter may make another name: no word of the texts alone is meant by it. Names that no slip explains
stay as they are. (P. Norvig, How to Write a Spelling Corrector, 2007.)
"""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping

SHORTEST = 4  # letters of a word that is put right: shorter ones are near to too many
LONGEST = 40  # and of one that may be: more take long, and are no word
MOST = 4  # words of a text that are: more are no typos, but names or another language
WHOLE = 2_000  # characters of such a text: what is longer is not read as a whole, either
_WORD = re.compile(r"([^\W\d_]+)")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_ALONE = {"a", "i", "s"}  # letters that are words, the last behind an apostrophe
_BEGINS = ("▁", "Ġ")  # what a word's first piece is marked with, where pieces behind it are not


class Spelling:
    """Puts words right by a tokenizer's vocabulary, token to id."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        self._rank: dict[str, int] = {}
        self._named: dict[str, str] = {}  # words of the texts, as they are written there
        pieces_marked = any(token.startswith("##") for token in vocabulary)
        for token, rank in vocabulary.items():
            word = token if pieces_marked else token[1:] * token.startswith(_BEGINS)
            if word.isascii() and word.isalpha():
                known = word.lower()
                self._rank[known] = min(rank, self._rank.get(known, rank))

    def knowing(self, texts: Iterable[str]) -> "Spelling":
        """This one, with the words of some texts, which are meant before others.

        >>> Spelling({"of": 1, "cote": 2, "##s": 3}).knowing(["Cotte of Ys"])("Cotet of Ys")
        'Cotte of Ys'
        """
        more = copy.copy(self)
        words = {word for word in _WORD.findall("\n".join(texts)) if word.isascii()}
        more._named = {word.lower(): word for word in sorted(words, reverse=True)}
        return more

    def __call__(self, text: str) -> str:
        """The text with its mistyped words put right; most often the text itself.

        >>> Spelling({"capital": 9, "of": 1, "ys": 5, "##s": 2})("The Captial o fYs")
        'The Capital of Ys'
        """
        if len(text) > WHOLE:
            return text
        parts = _WORD.split(text)  # words at odd places
        strange = {word for word in parts[1::2] if word.isascii() and not self._knows(word)}
        if not 0 < len(strange) <= MOST:
            return text
        for i in range(1, len(parts) - 2, 2):
            if parts[i + 1] == " ":
                parts[i : i + 3] = self._spaced(parts[i], parts[i + 2])
        parts[1::2] = map(self._meant, parts[1::2])
        return "".join(parts)

    def _knows(self, word: str) -> bool:
        typed = word.lower()
        known = typed in self._named or typed in self._rank
        return known if len(typed) > 1 else typed in _ALONE

    def _spaced(self, a: str, b: str) -> tuple[str, str, str]:
        """Two neighbouring words with the space where it was meant, if anywhere."""
        if not (self._knows(a) and self._knows(b)):
            for before, behind in ((a + b[0], b[1:]), (a[:-1], a[-1] + b)):
                if self._knows(before) and self._knows(behind):
                    return before, " ", behind
            if len(a + b) >= SHORTEST and self._knows(a + b):
                return "", "", a + b
        return a, " ", b

    def _meant(self, word: str) -> str:
        typed = word.lower()
        if not SHORTEST <= len(typed) <= LONGEST or not word.isascii() or self._knows(word):
            return word
        meant = self._likeliest(_swaps(typed)) or self._likeliest(self._slips(typed))
        if meant:
            named = self._named.get(meant, meant)
            return meant if word[0].islower() else named[0].upper() + named[1:]
        halves = ((word[:i], word[i:]) for i in range(1, len(word)))
        return next((f"{a} {b}" for a, b in halves if self._knows(a) and self._knows(b)), word)

    def _slips(self, word: str) -> Iterator[str]:
        cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
        for a, b in cuts[:-1]:
            yield a + b[1:]
            wrong = (a + letter + b[1:] for letter in _LETTERS)
            yield from (each for each in wrong if each in self._rank)
        for a, b in cuts:
            yield from (a + letter + b for letter in _LETTERS)

    def _likeliest(self, words: Iterable[str]) -> str | None:
        known = [word for word in words if len(word) >= SHORTEST and self._knows(word)]
        return min(known, key=self._order, default=None)

    def _order(self, word: str) -> tuple[int, str]:
        return (-1 if word in self._named else self._rank[word]), word


def _swaps(word: str) -> set[str]:
    return {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}
