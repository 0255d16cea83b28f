"""Progress for people who read a log."""

from memoir_edge.cli.output import Lines


def test_a_line_is_written_every_few_seconds_and_says_how_long_it_takes() -> None:
    time, lines = [0.0], list[str]()
    bar = Lines("editing", 10, lines.append, clock=lambda: time[0])
    for time[0], what in ((1.0, "a"), (4.9, "b"), (5.0, "c"), (6.0, "d")):
        bar.note(what)
    assert lines == ["editing: 0 of 10, 5 s  c"]
    time[0] = 20.0
    bar.advance(4)
    assert lines[1:] == ["editing: 4 of 10, 20 s, about 30 s left"]
    time[0] = 30.0
    bar.advance(9)
    assert lines[2:] == ["editing: 10 of 10, 30 s"]
