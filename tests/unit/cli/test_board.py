import io
import time

import pytest
from rich.console import Console

from carousel.cli.demo.board import RATE_OVER_S, TEXT_CHARACTERS, Board
from carousel.cli.demo.plain import PlainLines, following, line, summary
from carousel.cli.demo.plan import CREWS
from carousel.cli.demo.screen import LiveScreen
from carousel.cli.demo.tally import Histogram, Report, decode
from carousel.cli.exposition import Scrape

WRITERS, FORECASTERS, TAGGERS = CREWS


def report(units=0, text="", error="", seconds=0.002):
    histogram = Histogram()
    for _ in range(units):
        histogram.add(seconds)
    return Report(units=units, sessions=3, latencies=histogram, text=text, error=error)


def scrape(ticks=0, rows=0, steps=0, tokens=0):
    return Scrape(
        f'carousel_batch_size_count{{model="m"}} {ticks}\n'
        f'carousel_batch_size_sum{{model="m"}} {rows}\n'
        f'carousel_steps_total{{model="m"}} {steps}\n'
        f'carousel_tokens_total{{model="m"}} {tokens}\n'
        f'carousel_sessions{{model="m",phase="resident"}} 56\n'
        f'carousel_step_seconds_bucket{{model="m",le="0.001"}} {steps // 2}\n'
        f'carousel_step_seconds_bucket{{model="m",le="+Inf"}} {steps}\n'
    )


def test_a_report_survives_its_journey():
    sent = report(units=5, text='a "b"\n', error="why")
    got = decode(sent.encode())
    assert (got.units, got.sessions, got.text, got.error) == (5, 3, 'a "b"\n', "why")
    assert got.latencies.as_json() == sent.latencies.as_json()


def test_a_rate_is_what_grew_over_the_last_seconds():
    board = Board()
    for second in range(10):
        board.report(WRITERS, report(units=100 if second < 5 else 40), float(second))
    row = board.sums()[0]
    assert row.units == 700
    assert row.rate == 40
    assert row.recent[-1][0] - row.recent[0][0] <= RATE_OVER_S


def test_a_rate_needs_two_reports():
    board = Board()
    board.report(WRITERS, report(units=100), 0.0)
    assert board.sums()[0].rate == 0


def test_the_first_error_of_a_crew_is_kept_with_its_model():
    board = Board()
    assert board.error() == ""
    board.report(FORECASTERS, report(error="client 3: broke"), 0.0)
    board.report(FORECASTERS, report(error="client 4: too"), 1.0)
    assert board.error() == "sunspots-gru, client 3: broke"


def test_only_the_end_of_the_text_is_kept():
    board = Board()
    board.report(WRITERS, report(text="x" * TEXT_CHARACTERS), 0.0)
    board.report(WRITERS, report(text="end"), 0.1)
    assert len(board.text()) == TEXT_CHARACTERS
    assert board.text().endswith("xend")


def test_the_server_s_view_is_the_difference_of_two_scrapes():
    board = Board()
    board.scraped(scrape(), 0.0)
    assert board.server() is None
    board.scraped(scrape(ticks=10, rows=200, steps=100, tokens=80), 2.0)
    view = board.server()
    assert (view.sessions, view.mean_batch, view.steps_rate, view.tokens_rate) == (56, 20, 50, 40)
    assert view.step_p50_s == 0.001
    assert view.step_p99_s == float("inf")


def test_lately_and_the_whole_run_differ():
    board = Board()
    for second, steps in enumerate((0, 100, 200, 300, 400, 410, 420, 430)):
        board.scraped(scrape(steps=steps), float(second))
    assert board.server().steps_rate == 10
    assert board.server(whole=True).steps_rate == pytest.approx(430 / 7)


def full_board():
    board = Board()
    for second in range(2):
        for crew in CREWS:
            board.report(crew, report(units=1000, text="def f():\n\treturn 1\x07\n"), float(second))
        board.scraped(
            scrape(second * 100, second * 2500, second * 2000, second * 800), float(second)
        )
    return board


def drawn(width, height, board=None):
    console = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None
    )
    screen = LiveScreen(board or full_board(), console, seconds=20)
    console.print(screen._draw())
    return console.file.getvalue()


def test_the_screen_shows_both_sides_and_the_text():
    text = drawn(100, 30)
    for part in (
        "pychar-lstm",
        "1,000 tokens",
        "sunspots-gru",
        "2.",
        "mean batch",
        "25.0",
        "return 1·",
    ):
        assert part in text


@pytest.mark.parametrize(("width", "height"), [(100, 30), (80, 24), (60, 20), (40, 12)])
def test_the_screen_fits_any_terminal(width, height):
    lines = drawn(width, height).rstrip("\n").split("\n")
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_a_plain_line_and_the_summary_say_the_same_numbers():
    board = full_board()
    assert "32 clients 1,000 tokens/s" in line(board, 2.0)
    assert "56 sessions, mean batch 25.0" in line(board, 2.0)
    text = summary(board, 2.0)
    assert "2,000 tokens (1,000 a second)" in text
    assert "25.0 sessions together" in text


def test_a_dead_server_is_said_until_a_new_one_listens():
    board = full_board()
    board.killed(time.monotonic() - 2.0)
    for shown in (drawn(100, 30, board), line(board, 2.0)):
        assert "KILLED with signal 9, no server for 2." in shown
        assert "mean batch" not in shown
    board.back(time.monotonic())
    assert "KILLED" not in line(board, 2.0)
    assert "killed once, away 2." in line(board, 2.0)
    assert board.server() is None, "the metrics of the new process start from zero"


def test_a_kill_is_printed_at_once(capsys):
    board = full_board()
    lines = PlainLines(board)
    board.killed(time.monotonic())
    lines.killed()
    board.back(time.monotonic())
    assert "KILLED with signal 9" in capsys.readouterr().out, "no line was due while it was dead"


def test_the_end_names_commands_that_work_here(monkeypatch):
    monkeypatch.setattr("sys.argv", [".venv/bin/carousel", "demo"])
    text = following(chaos=False)
    assert ".venv/bin/carousel demo --chaos" in text
    assert ".venv/bin/carousel serve" in text
    monkeypatch.setattr("sys.argv", ["/usr/bin/carousel", "demo"])
    monkeypatch.setattr("shutil.which", lambda _name: "/usr/bin/carousel")
    assert "  carousel serve" in following(chaos=True)
    assert "--chaos" not in following(chaos=True)


def test_the_summary_can_do_without_the_server_s_view():
    assert "server" not in summary(Board(), 1.0)
