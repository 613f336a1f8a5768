"""The live view: the clients' numbers, the server's numbers, and one text while it is written."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .board import Board, CrewSum, ServerView
from .plain import as_latency, as_rate, chaos, dead

FRAMES_A_SECOND = 8
FRAME_LINES = 2
WITH_MODEL, WITH_MEANING = 74, 96
"""The least width of a terminal for these columns of the table."""


class LiveScreen:
    """Draws the board until `close`, which removes it."""

    def __init__(self, board: Board, console: Console, seconds: float) -> None:
        self._board = board
        self._console = console
        self._seconds = seconds
        self._started_s = time.monotonic()
        self._live = Live(
            console=console,
            get_renderable=self._draw,
            refresh_per_second=FRAMES_A_SECOND,
            transient=True,
        )

    def open(self) -> None:
        """Starts drawing."""
        self._started_s = time.monotonic()
        self._live.start()

    def killed(self) -> None:
        """The server was killed: the next frame shows it."""

    def close(self) -> None:
        """Stops drawing and removes the view."""
        self._live.stop()

    def _draw(self) -> RenderableType:
        elapsed_s = min(time.monotonic() - self._started_s, self._seconds)
        parts: list[RenderableType] = [
            header(elapsed_s, self._seconds),
            crews_table(self._board.sums(), self._console.width),
            server_line(self._board.server(), self._board.killed_for_s(time.monotonic())),
            *([Text(chaos(self._board), style="bold red")] if self._board.away_s() else []),
        ]
        above = len(self._console.render_lines(Group(*parts)))
        room = self._console.height - above - FRAME_LINES - 1  # Live needs one line for the cursor
        if room >= 1:
            parts.append(text_panel(self._board.text(), room, self._console.width - 4))
        return Group(*parts)


def header(elapsed_s: float, seconds: float) -> RenderableType:
    """Title and elapsed time."""
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(
        Text("carousel demo", style="bold"),
        ProgressBar(total=seconds, completed=elapsed_s),
        Text(f"{elapsed_s:.0f}/{seconds:.0f} s", style="dim"),
    )
    return grid


def crews_table(sums: list[CrewSum], width: int) -> Table:
    """The clients' own numbers. Narrow terminals have fewer columns."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column("clients", justify="right", style="bold")
    columns: list[tuple[str, Callable[[CrewSum], str], str]] = [
        ("a second", lambda row: f"{as_rate(row.rate)} {row.crew.unit}", "bold green"),
        ("p50", lambda row: as_latency(row.latencies.quantile(0.5)), ""),
        ("p99", lambda row: as_latency(row.latencies.quantile(0.99)), ""),
    ]
    if width >= WITH_MODEL:
        columns[:0] = [
            ("", lambda row: row.crew.title, ""),
            ("model", lambda row: row.crew.model, "cyan"),
        ]
    if width >= WITH_MEANING:
        columns.append(("of", lambda row: row.crew.timed, "dim"))
    for name, _, style in columns:
        right = name in {"a second", "p50", "p99"}
        table.add_column(name, style=style, justify="right" if right else "left", no_wrap=True)
    for row in sums:
        table.add_row(str(row.crew.clients), *(cell(row) for _, cell, _ in columns))
    return table


def server_line(view: ServerView | None, killed_for_s: float | None) -> Text:
    """The server's own metrics, or that it was killed."""
    if killed_for_s is not None:
        return Text(dead(killed_for_s), style="bold white on red")
    if view is None:
        return Text("server  …", style="dim")
    values = (
        ("sessions", f"{view.sessions:.0f}"),
        ("steps/s", as_rate(view.steps_rate)),
        ("tokens/s", as_rate(view.tokens_rate)),
        ("mean batch", f"{view.mean_batch:.1f}"),
        ("step p50", as_latency(view.step_p50_s)),
        ("p99", as_latency(view.step_p99_s)),
    )
    line = Text("server", style="dim")
    for name, value in values:
        line.append(f"  {name} ").append(value, style="not dim bold")
    return line


def text_panel(text: str, lines: int, width: int) -> Panel:
    """The end of the text, with as many lines as fit."""
    folded = [
        line[start : start + width]
        for line in text.expandtabs(4).split("\n")
        for start in range(0, max(len(line), 1), max(width, 1))
    ]
    tail = [*[""] * (lines - len(folded)), *folded[-lines:]]
    shown = "".join(c if c.isprintable() or c == "\n" else "·" for c in "\n".join(tail))
    title = "one of the texts, while it is written"
    return Panel(Text(shown), box=ROUNDED, title=title, title_align="left", border_style="dim")
