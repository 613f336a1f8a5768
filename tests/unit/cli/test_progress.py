"""What a long command says of its progress."""

import io

import pytest

from carousel.cli import progress
from carousel.cli.progress import Estimate


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("passed_s", "done", "said"),
    [
        (10.0, 0.25, "about 30 s left"),
        (10.0, 1.0, "about 0 s left"),
        (100.0, 0.1, "about 15 min left"),
        (5.0, 0.0, ""),
        (5.0, 0.01, ""),
    ],
)
def test_the_time_left_follows_from_what_is_done(passed_s, done, said):
    clock = Clock()
    estimate = Estimate(clock)
    clock.now_s += passed_s
    assert estimate.left(done) == said


def test_without_a_terminal_each_part_is_one_line(capsys):
    with progress.shown() as report:
        for now, done in [("reading", 0.0), ("reading", 0.2), ("timing", 0.5), ("timing", 0.6)]:
            report(now, done)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "reading …"
    assert second.startswith("timing … about ")


def test_a_terminal_gets_a_bar_that_leaves_nothing_behind(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.shown() as report:
        report("reading", 0.5)
    assert "reading" in terminal.getvalue()
    assert "\n" not in terminal.getvalue().rstrip("\n").rpartition("\x1b[2K")[2]
