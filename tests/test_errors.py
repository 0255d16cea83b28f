"""The tree of errors is the one that its page draws."""

import re

from memoir_edge import errors
from memoir_edge.errors import IncompatibleError, InputError, MemoirEdgeError


def test_the_drawn_tree_is_the_classes_tree() -> None:
    drawn: list[tuple[int, str]] = [
        (len(indent), name)
        for indent, name in re.findall(r"^ {4}([│├└─ ]*)(\w+Error)\b", errors.__doc__, re.MULTILINE)
    ]
    path: list[str] = []
    tree = set()
    for depth, name in drawn:
        del path[depth // 4 :]
        path.append(name)
        tree.add(tuple(path))
    classes = [found for found in vars(errors).values() if isinstance(found, type)]
    bases = len(Exception.__mro__)
    assert tree == {tuple(c.__name__ for c in reversed(cls.__mro__[:-bases])) for cls in classes}


def test_exit_codes_tell_bad_input_from_what_does_not_fit() -> None:
    assert (InputError.exit_code, IncompatibleError.exit_code) == (2, 3)
    assert re.search(r"InputError .*exit code 2\n", str(errors.__doc__))
    assert re.search(r"IncompatibleError .*exit code 3\n", str(errors.__doc__))


def test_an_error_prints_its_message_and_keeps_its_hint() -> None:
    error = errors.EditsError("no target", line=3, hint="mend it")
    assert isinstance(error, MemoirEdgeError)
    assert (str(error), error.hint, error.line) == ("line 3: no target", "mend it", 3)
