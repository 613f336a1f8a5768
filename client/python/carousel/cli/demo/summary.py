"""The end of the demo: what was done, and that nothing was left behind."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from .board import Board
from .wording import as_latency, as_rate, chaos


def summary(board: Board, seconds: float) -> str:
    """A few lines, in plain text."""
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
    """What to try next: commands that work where this one did."""
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
    """The command as the user can type it: its name where PATH finds it, else its path."""
    path = Path(sys.argv[0])
    if path.name != "carousel" or shutil.which("carousel") == str(path):
        return "carousel"
    return str(path)
