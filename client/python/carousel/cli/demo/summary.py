"""The end of the demo: what was done, and that nothing was left behind."""

from __future__ import annotations

from .board import Board
from .wording import as_latency, as_rate


def summary(board: Board, seconds: float) -> str:
    """A few lines, in plain text."""
    lines = [f"In {seconds:.0f} s, by the clients' own count:"]
    for row in board.sums():
        crew = row.crew
        p50, p99 = (as_latency(row.latencies.quantile(q)) for q in (0.5, 0.99))
        lines.append(
            f"  {crew.clients:>3} clients {crew.title} with {crew.model}: {row.units:,} {crew.unit} "
            f"({as_rate(row.units / seconds)} a second), {crew.timed} p50 {p50}, p99 {p99}"
        )
    server = board.server(whole=True)
    if server:
        lines.append(
            f"  The server ran {server.mean_batch:.1f} sessions together in a mean batch; "
            f"a step took at most {as_latency(server.step_p50_s)} for half of them, "
            f"{as_latency(server.step_p99_s)} for 99 %."
        )
    return "\n".join(lines)
