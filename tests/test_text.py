"""Where a prompt ends and its target begins."""

from memoir_edge.text import split_target


def test_split_target_where_tokens_end_and_where_they_merge():
    def bare(text):  # pairs of characters
        return [hash(text[i : i + 2]) for i in range(0, len(text), 2)]

    def encode(text):
        return [0, *bare(text)]

    assert split_target(encode, bare, "abcd", "x") == (encode("abcd"), bare(" x"))
    assert split_target(encode, bare, "abc", "x") == (encode("abc"), bare(" x"))
    assert encode("abc x")[:3] != encode("abc")
