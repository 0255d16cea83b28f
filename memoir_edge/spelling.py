"""A word with a typo put right, as far as a vocabulary knows it: what was meant by what was typed.

    respell = Spelling(tokenizer.get_vocab())
    respell("What is the captial of Lyonesse?")       # What is the capital of Lyonesse?

A sentence encoder's tokenizer takes a word that it does not know to pieces, and the pieces of a
mistyped word mean nothing. A word is known if the tokenizer has it whole. Any other is exchanged
for one that is a single slip away: two neighbouring letters swapped, else a letter too few, too
many or wrong; among several the commonest, since vocabularies begin with what is common. Names
that no slip explains stay as they are. (P. Norvig, How to Write a Spelling Corrector, 2007.)
"""

import re
from collections.abc import Mapping

SHORTEST = 4  # letters of a word that is put right: shorter ones are near to too many
MOST = 4  # words of a text that are: more are no typos, but names or another language
LONGEST = 2_000  # characters of such a text: what is longer is not read as a whole, either
_WORD = re.compile(r"[^\W\d_]+")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_BEGINS = ("▁", "Ġ")  # what a word's first piece is marked with, where pieces behind it are not


class Spelling:
    """Puts words right by a tokenizer's vocabulary, token to id."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        self._rank: dict[str, int] = {}
        pieces_marked = any(token.startswith("##") for token in vocabulary)
        for token, rank in vocabulary.items():
            word = token if pieces_marked else token[1:] * token.startswith(_BEGINS)
            if word.isascii() and word.isalpha():
                known = word.lower()
                self._rank[known] = min(rank, self._rank.get(known, rank))

    def __call__(self, text: str) -> str:
        """The text with its mistyped words put right; most often the text itself.

        >>> Spelling({"capital": 9, "of": 1, "##s": 2})("The Captial of Ys")
        'The Capital of Ys'
        """
        if len(text) > LONGEST:
            return text
        strange = {word for word in _WORD.findall(text) if self._strange(word)}
        if not 0 < len(strange) <= MOST:
            return text
        meant = {word: self._meant(word) for word in strange}
        return _WORD.sub(lambda found: meant.get(found[0], found[0]), text)

    def _strange(self, word: str) -> bool:
        typed = word.lower()
        return len(typed) >= SHORTEST and word.isascii() and typed not in self._rank

    def _meant(self, word: str) -> str:
        typed = word.lower()
        meant = self._commonest(_swaps(typed)) or self._commonest(_slips(typed))
        if not meant:
            return word
        return meant.capitalize() if word[0].isupper() else meant

    def _commonest(self, words: set[str]) -> str | None:
        known = [word for word in words & self._rank.keys() if len(word) >= SHORTEST]
        return min(known, key=self._rank.__getitem__, default=None)


def _swaps(word: str) -> set[str]:
    return {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}


def _slips(word: str) -> set[str]:
    cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    fewer = {a + b[1:] for a, b in cuts[:-1]}
    other = {a + letter + b[1:] for a, b in cuts[:-1] for letter in _LETTERS}
    more = {a + letter + b for a, b in cuts for letter in _LETTERS}
    return fewer | other | more
