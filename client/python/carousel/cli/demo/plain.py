"""The demo in plain text: numbers as people read them, a line now and then, and the summary."""

from __future__ import annotations

import math
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from carousel.cli.printing import print_line

from .board import Board

LINE_EVERY_S = 2.0


class PlainLines:
    """Prints a line every two seconds on its own thread, until `close`."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._started_s = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def open(self) -> None:
        """Starts printing."""
        self._thread.start()

    def killed(self) -> None:
        """The server was killed: prints a line now, since it may be back before the next one is due."""
        print_line(line(self._board, time.monotonic() - self._started_s))

    def close(self) -> None:
        """Stops printing."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(LINE_EVERY_S):
            print_line(line(self._board, time.monotonic() - self._started_s))


def line(board: Board, elapsed_s: float) -> str:
    """All numbers in one line."""
    parts = [f"{elapsed_s:5.1f} s"]
    for row in board.sums():
        p99 = as_latency(row.latencies.quantile(0.99))
        parts.append(f"{row.crew.clients} clients {as_rate(row.rate)} {row.crew.unit}/s p99 {p99}")
    server, killed_for_s = board.server(), board.killed_for_s(time.monotonic())
    if killed_for_s is not None:
        parts.append(dead(killed_for_s))
    elif server:
        parts.append(f"server: {server.sessions:.0f} sessions, mean batch {server.mean_batch:.1f}")
    if board.away_s():
        parts.append(chaos(board))
    return " | ".join(parts)


if TYPE_CHECKING:
    from .board import Board


def as_latency(seconds: float | None) -> str:
    """A latency with a suitable unit: 340 µs, 2.1 ms, 1.3 s."""
    if seconds is None:
        return "–"
    if math.isinf(seconds):
        return "> 2.5 s"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return (
        f"{seconds * 1e3:.{1 if seconds < 0.1 else 0}f} ms" if seconds < 1 else f"{seconds:.1f} s"
    )


def as_rate(value: float) -> str:
    """A rate with few digits: 1,234 or 3.4."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def dead(killed_for_s: float) -> str:
    """The text while no server listens."""
    return f"server: KILLED with signal 9, no server for {as_latency(killed_for_s)}"


def chaos(board: Board) -> str:
    """How often the server was killed, how long it was away, and how many sessions have continued."""
    away_s = board.away_s()
    mended = sum(row.mended for row in board.sums())
    times = "once" if len(away_s) == 1 else f"{len(away_s)} times"
    return (
        f"killed {times}, away {as_latency(sum(away_s) / len(away_s))} on average; "
        f"{mended:,} sessions continued without loss"
    )


def summary(board: Board, seconds: float) -> str:
    """The summary, a few lines of plain text."""
    lines = [f"In {seconds:.0f} s, by the clients' own count:"]
    for row in board.sums():
        crew = row.crew
        p50, p99 = (as_latency(row.latencies.quantile(q)) for q in (0.5, 0.99))
        done = f"{row.units:,} {crew.unit} ({as_rate(row.units / seconds)} a second)"
        lines += [
            f"  {crew.clients} clients {crew.title} with {crew.model}: {done}",
            f"     {crew.timed}: p50 {p50}, p99 {p99}",
        ]
    server = board.server(whole=True)
    if server:
        p50, p99 = as_latency(server.step_p50_s), as_latency(server.step_p99_s)
        lines += [
            f"  the server ran {server.mean_batch:.1f} sessions together in a mean batch",
            f"     a step, by its own count: p50 at most {p50}, p99 at most {p99}",
        ]
    if board.away_s():
        lines.append(f"  the server was {chaos(board)}; no client has failed")
    return "\n".join(lines)


def following(chaos: bool) -> str:
    """The commands to try next."""
    command = this_command()
    lines = [] if chaos else [f"  {command} demo --chaos    the same, while the server is killed"]
    return "\n".join(
        [
            "Next:",
            *lines,
            f"  {command} serve           a server of your own, until Ctrl-C",
            f'  {command} generate pychar-lstm "def "    in another terminal: text from that server',
        ]
    )


def this_command() -> str:
    """The command to type: its name if PATH has it, else its path."""
    path = Path(sys.argv[0])
    if path.name != "carousel" or shutil.which("carousel") == str(path):
        return "carousel"
    return str(path)
