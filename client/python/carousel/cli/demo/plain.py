"""The view where stdout is no terminal: a line now and then."""

from __future__ import annotations

import threading
import time

from carousel.cli.printing import print_line

from .board import Board
from .wording import as_latency, as_rate, chaos, dead

LINE_EVERY_S = 2.0


class PlainLines:
    """Prints a line every two seconds, on a thread of its own, until it is closed."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def open(self) -> None:
        """Begins to print."""
        self._thread.start()

    def close(self) -> None:
        """Prints no more."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        started_s = time.monotonic()
        while not self._closed.wait(LINE_EVERY_S):
            print_line(line(self._board, time.monotonic() - started_s))


def line(board: Board, elapsed_s: float) -> str:
    """All that is known, in one line."""
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
