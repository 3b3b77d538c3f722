"""A bar where someone watches, a line a minute in a log, nothing where another process speaks."""

import pytest

from frozen_jax import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock in minutes, moved by hand."""
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: 60 * now[0])
    return now


def count(clock, minutes, **settings):
    """Counts a line after each of so many minutes."""
    with progress.bar(total=10, desc="read", unit="lines", **settings) as bar:
        for passed in minutes:
            clock[0] += passed
            bar.set_postfix(loss=str(passed), refresh=False)
            bar.update()


def test_a_log_has_a_line_a_minute_and_one_at_the_end(clock, capsys):
    count(clock, [0.75] * 5)
    assert capsys.readouterr().err.splitlines() == [
        "read: 2 of 10 lines, 01:30 so far, 06:00 to go, loss=0.75",
        "read: 4 of 10 lines, 03:00 so far, 04:30 to go, loss=0.75",
        "read: 5 of 10 lines, 03:45 so far, 03:45 to go, loss=0.75",
    ]
    count(clock, [0.75] * 2, initial=6)
    assert capsys.readouterr().err == "read: 8 of 10 lines, 01:30 so far, 01:30 to go, loss=0.75\n"


def test_what_ends_within_a_minute_says_nothing(clock, capsys):
    count(clock, [0.1] * 9)
    assert capsys.readouterr().err == ""


def test_items_of_unknown_number_are_counted(clock, capsys):
    for item in progress.bar(iter("abc"), desc="split", unit="documents"):
        clock[0] += ord(item) - ord("a")
    assert capsys.readouterr().err == "split: 2 documents, 01:00 so far\nsplit: 3 documents, 03:00 so far\n"


def test_only_the_first_process_speaks(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress, "is_first", lambda: False)
    count(clock, [1] * 5)
    assert capsys.readouterr().err == ""
