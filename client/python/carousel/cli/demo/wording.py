"""Numbers as people read them, the same on the live screen, in plain lines and in the summary."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .board import Board


def as_latency(seconds: float | None) -> str:
    """A latency with a unit that fits: 340 µs, 2.1 ms, 1.3 s."""
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
    """A rate without false precision: 1,234 or 3.4."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def dead(killed_for_s: float) -> str:
    """What is shown while no server listens."""
    return f"server: KILLED with signal 9, no server for {as_latency(killed_for_s)}"


def chaos(board: Board) -> str:
    """How often the server was killed, how long it was away, and what the clients have mended."""
    away_s = board.away_s()
    mended = sum(row.mended for row in board.sums())
    times = "once" if len(away_s) == 1 else f"{len(away_s)} times"
    return (
        f"killed {times}, away {as_latency(sum(away_s) / len(away_s))} on average; "
        f"{mended:,} sessions went on where they stood"
    )
