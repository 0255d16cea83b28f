"""Where a prompt names its subject: how one is spelled in it, and which words may be one.

A span of words may be a name where one has a capital that no sentence begins with, or a digit.
Knows nothing of encoders: which of several spans is the subject, a reading tells.
"""

import re
import unicodedata

LONGEST = 6  # words of a subject that is looked for
# Words in small letters that no subject contains, and those that none begins or ends with.
VERBS = frozenset(
    ["am", "are", "be", "been", "can", "did", "do", "does", "had", "has", "have", "is", "was",
     "were"]
)  # fmt: skip
FUNCTION_WORDS = VERBS | frozenset(
    ["a", "an", "and", "at", "by", "for", "from", "how", "i", "i'd", "i'll", "i'm", "i've", "in",
     "it", "its", "me", "my", "of", "on", "or", "runs", "tell", "that", "this", "to", "use", "used",
     "uses", "what", "when", "where", "which", "who", "whom", "whose", "why", "with", "you", "your"]
)  # fmt: skip
ASKERS = frozenset(["i", "you"])
# Whom these ask of stands behind them, and the verb itself behind that.
AUXILIARIES = frozenset(["can", "could", "did", "do", "does", "should", "will", "would"])
# Words with a capital that "I" may stand behind where a sentence begins.
BEFORE_ASKER = FUNCTION_WORDS | AUXILIARIES | frozenset(
    ["after", "as", "because", "before", "but", "if", "may", "must", "once", "shall", "since", "so"]
)  # fmt: skip

# "Node.js", "C++", and "Inc." within a sentence; no opening quote.
_WORD = re.compile(r"(?!['’](?!s-))[\w&.'’/+#-]*[\w+#](?:\.(?=\s[a-z]|['’]))?")
_POSSESSIVE = re.compile(r"['’]s?$")
_APOSTROPHE, _EITHER = re.compile("['’]"), "['’]"
_QUOTES = "\"'“‘«"
# What stands before a sentence's first word: marks of a list may. What is quoted may be a name.
_BEGUN = re.compile(rf"(?:[.?!:]\s+|\n\s*)[^\w\s{_QUOTES}]*\s*$")
_FIRST = re.compile(rf"[^\w\s{_QUOTES}]*\s*$")
_ENDED = re.compile(r"\s*(?:[?!]|\.?\s*\Z)")
_OF = re.compile(r"\s+(?:of|for)\b")
_CAPITAL = re.compile(r"\s[^\W\d_a-z]")
_APART = re.compile(r"[?:;,!]\s|\n")
_THE_US = re.compile(r"\bthe us\b", re.IGNORECASE)
_ASKER = re.compile(r"I(?:['’](?:d|ll|m|ve))?")


def spelled(prompt: str, name: str) -> re.Pattern[str] | None:
    """How a prompt spells a subject: as a word of its own if it does, in its own case if it does.

    Accents may be letters' own or stand behind them, and apostrophes be of either sort.

    >>> spelled("The most famous capital of the US is", "US").search("famous US").start()
    7
    >>> spelled("Lisbon lies in", "Porto") is None
    True
    """
    forms = dict.fromkeys([name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))])
    anywhere = f"(?:{'|'.join(_APOSTROPHE.sub(_EITHER, re.escape(form)) for form in forms)})"
    word = rf"(?<!\w){anywhere}(?!\w)"
    ways = ((word, re.NOFLAG), (word, re.IGNORECASE), (anywhere, re.IGNORECASE))
    patterns = (re.compile(*way) for way in ways if name)
    return next((pattern for pattern in patterns if pattern.search(prompt)), None)


def put(prompt: str, name: str, other: str) -> str:
    """The prompt asked of another subject; as it is where the subject is not in it.

    >>> put("Lisbon lies in", "lisbon", "something")
    'something lies in'
    >>> put("The most famous capital of the US is", "us", "Cuba")
    'The most famous capital of the Cuba is'
    """
    found = spelled(prompt, name)
    return found.sub(lambda _: other, prompt) if found else prompt


def speaks(prompt: str, name: str | None) -> bool:
    """Whether a subject is no more than whoever speaks: an encoder reads "us" as the US.

    >>> speaks("You can reach us at", "us"), speaks("the capital of the us is", "us")
    (True, False)
    """
    return name == "us" and not _THE_US.search(prompt)


def candidates(prompt: str) -> list[str]:
    """Spans of words that may be the subject: those with a capital or a digit, else any.

    None begins or ends with a function word, and none is a part of a name in capitals. What an
    auxiliary verb asks of does not take in the verb at the end: "When did {} start?".

    >>> candidates("The CEO of Example Corp is")
    ['The CEO of Example Corp', 'CEO of Example Corp', 'Example Corp']
    >>> candidates("Who runs brightfen?")
    ['brightfen']
    >>> candidates("When does Example Corp open?")
    ['Example Corp']
    """
    words = list(_WORD.finditer(prompt))
    telling = [_telling(prompt, words, i) for i in range(len(words))]
    small = [
        "" if tells else _POSSESSIVE.sub("", word.group()).lower()
        for word, tells in zip(words, telling, strict=True)
    ]
    found: dict[str, bool] = {}
    for i in range(len(words)):
        if i and small[i] and small[i - 1] in ASKERS:  # a verb
            continue
        helped = _helped(small, i)
        for j in range(i, min(i + LONGEST, len(words))):
            span = prompt[words[i].start() : words[j].end()]
            if small[j] in VERBS or _APART.search(span):
                break
            if helped and _ENDED.match(prompt, words[j].end()):
                break
            if small[i] in FUNCTION_WORDS or small[j] in FUNCTION_WORDS or small[j] == "the":
                continue
            if _joined(prompt, words, telling, i - 1) or _joined(prompt, words, telling, j):
                continue
            found[_POSSESSIVE.sub("", span)] = any(telling[i : j + 1])
    return [text for text, tells in found.items() if tells] or list(found)


def _telling(prompt: str, words: list[re.Match[str]], i: int) -> bool:
    """Whether a word is likely of a name: a capital that no sentence begins with, or a digit.

    An abbreviation before "of" is what is asked ("the CEO of").
    """
    text = words[i].group()
    if _ASKER.fullmatch(text):
        return not _asker(prompt, words, i)
    if text.isupper() and _OF.match(prompt, words[i].end()):
        return False
    before = _before(prompt, words, i)
    if _POSSESSIVE.sub("", text).lower() in FUNCTION_WORDS:
        before = before.rstrip(_QUOTES)
    begins = _BEGUN.search(before) or (i == 0 and _FIRST.match(before))
    return any(c.isupper() or c.isdigit() for c in (text[1:] if begins else text))


def _before(prompt: str, words: list[re.Match[str]], i: int) -> str:
    """What stands between a word and the one before it."""
    return prompt[words[i - 1].end() if i else 0 : words[i].start()]


def _asker(prompt: str, words: list[re.Match[str]], i: int) -> bool:
    """Whether an "I" is whoever asks ("How can I reach"), and of no name ("Elizabeth I")."""
    last = words[i - 1].group() if i and _before(prompt, words, i) == " " else ""
    named = last[:1].isupper() and last.lower() not in BEFORE_ASKER
    return not named and not _CAPITAL.match(prompt, words[i].end())


def _helped(small: list[str], i: int) -> bool:
    """Whether an auxiliary verb asks of what begins there: "does" or "does the", not "the will"."""
    at = i - 2 if i and small[i - 1] == "the" else i - 1
    return at >= 0 and small[at] in AUXILIARIES and not (at and small[at - 1] == "the")


def _joined(prompt: str, words: list[re.Match[str]], telling: list[bool], i: int) -> bool:
    """Whether the words `i` and `i + 1` are of one name in capitals."""
    if i < 0 or i + 1 >= len(words) or _POSSESSIVE.search(words[i].group()):
        return False
    between = prompt[words[i].end() : words[i + 1].start()]
    capital = telling[i] or (between == " & " and words[i].group()[0].isupper())
    return between in (" ", " & ") and capital and telling[i + 1]
