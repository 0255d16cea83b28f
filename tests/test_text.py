"""Where a prompt ends and its target begins."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoir_edge.text import routed, split_target


def test_split_target_where_tokens_end_and_where_they_merge():
    def bare(text):  # pairs of characters
        return [hash(text[i : i + 2]) for i in range(0, len(text), 2)]

    def encode(text):
        return [0, *bare(text)]

    assert split_target(encode, bare, "abcd", "x") == (encode("abcd"), bare(" x"))
    assert split_target(encode, bare, "abc", "x") == (encode("abc"), bare(" x"))
    assert encode("abc x")[:3] != encode("abc")


@pytest.mark.parametrize("target", ["30 days", "8", "$5", "Rome", "a"])
def test_a_space_at_a_prompts_end_asks_for_what_follows_it_without(target: str) -> None:
    def encode(text: str) -> list[str]:  # a space is of the word behind it, and not of a digit
        return re.findall(r" ?[A-Za-z]+| |\S", text)

    said = [a + b for a, b in (split_target(encode, encode, p, target) for p in ("x is", "x is "))]
    ends = [encode(p) for p in ("x is", "x is ")]
    if said[0][: len(ends[1])] == ends[1]:  # both read the same there
        assert said[0] == said[1]
    else:
        assert "".join(said[1]) == f"x is  {target}"


@given(st.text("ab \n"), st.integers(0, 3))
def test_spaces_at_the_end_do_not_count_for_routing(text, spaces):
    def encode(text):
        return [0, *map(ord, text)]

    ids, end = routed(encode, text + " " * spaces)
    assert ids == encode(text + " " * spaces)
    bare = text.rstrip(" ")
    assert end == len(encode(bare) if bare else ids)


def test_spaces_that_merge_with_a_word_count():
    def encode(text):  # pairs of characters
        return [hash(text[i : i + 2]) for i in range(0, len(text), 2)]

    assert routed(encode, "abc ") == (encode("abc "), 2)


def test_a_target_behind_an_encoder_begins_a_text():
    letters = lambda text: [ord(letter) for letter in text]  # noqa: E731
    assert split_target(letters, letters, "a", "b", apart=True) == ([97], [98])
