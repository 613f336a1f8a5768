"""Progress of a long command on stderr: a bar with the remaining time, or lines without a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .printing import note

Report = Callable[[str, float], None]
"""Receives the current part, and the share of the whole that is done, 0 … 1."""

LEAST_SHARE = 0.02
"""Below this share, the remaining time cannot be estimated."""


@contextmanager
def shown() -> Iterator[Report]:
    """Shows the reports of the block."""
    if not sys.stderr.isatty():
        yield Lines().report
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}")
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0, left="")
        estimate = Estimate()

        def report(now: str, done: float) -> None:
            bar.update(task, description=now, completed=done, left=estimate.left(done))

        yield report


class Estimate:
    """The remaining time, from the elapsed time and the share that is done."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_s = clock()

    def left(self, done: float) -> str:
        """Such as "about 40 s left". "" while it cannot be estimated."""
        if done < LEAST_SHARE:
            return ""
        left_s = (self._clock() - self._began_s) * (1 - done) / done
        if left_s < 90:
            return f"about {left_s:.0f} s left"
        return f"about {left_s / 60:.0f} min left"


class Lines:
    """Writes a line for each part."""

    def __init__(self) -> None:
        self._now = ""
        self._estimate = Estimate()

    def report(self, now: str, done: float) -> None:
        """Writes a line if a new part begins."""
        if now != self._now:
            self._now = now
            left = self._estimate.left(done)
            note(f"{now} … {left}".rstrip())
