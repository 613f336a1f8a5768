"""Runs the demo: starts the server and the crews, shows them, and stops them in order."""

from __future__ import annotations

import contextlib
import math
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from carousel.cli.exits import CliError, usage_error
from carousel.cli.exposition import fetch
from carousel.cli.printing import note, print_line

from .board import Board
from .plain import PlainLines, following, summary
from .plan import CREWS, MODELS, Crew
from .processes import CrewProcess, ServerProcess
from .screen import LiveScreen
from .tally import Report

LOOK_EVERY_S = 0.5
SMALLEST_HEIGHT = 12
KILL_EVERY_S = 6.0
"""How long a server lives between two kills, so that the clients can be seen working."""


@dataclass(frozen=True, slots=True)
class Show:
    """The options of the demo, as in `carousel demo`."""

    models: Path
    seconds: float
    device: str
    plain: bool
    chaos: bool = False


def run(show: Show) -> None:
    """Runs the demo.

    Raises:
        CliError: the models do not exist, or the server or a client failed.
    """
    missing = [name for name in MODELS if not (show.models / name).is_dir()]
    if missing:
        raise usage_error(
            f"no model {missing[0]} in {show.models}", "name the zoo's folder: --models models/zoo"
        )
    board = Board()
    with server_running(show) as server:
        started_s = time.monotonic()
        with crews_running(board, server):
            perform(show, board, server)
        seconds = time.monotonic() - started_s
    if board.error():
        raise CliError(f"a client failed: {board.error()}")
    print_line(summary(board, seconds))
    print_line(following(show.chaos))


@contextlib.contextmanager
def server_running(show: Show) -> Iterator[ServerProcess]:
    """A server that listens. It is stopped at the end."""
    store = tempfile.TemporaryDirectory(prefix="carousel-demo-") if show.chaos else None
    file = None if store is None else Path(store.name) / "sessions.db"
    server = ServerProcess(show.models, show.device, file)
    try:
        note(f"starting a server on {show.models} …")
        server.wait_ready()
        note(
            f"the server listens on {server.address}, metrics on http://{server.metrics_address}/metrics"
        )
        yield server
    finally:
        code = server.close()
        if store is not None:
            store.cleanup()
    if code != 0:
        raise CliError(f"the server ended with exit code {code}")


@contextlib.contextmanager
def crews_running(board: Board, server: ServerProcess) -> Iterator[None]:
    """The processes of all crews. At the end they are stopped."""

    def take(crew: Crew, report: Report) -> None:
        board.report(crew, report, time.monotonic())

    crews = [CrewProcess(crew, server.address, take) for crew in CREWS]
    complaints: list[tuple[str, str]] = []
    try:
        yield
    finally:
        for process in crews:
            process.ask_to_end()
        complaints += [(process.crew.model, process.close()) for process in crews]
    for model, complaint in complaints:
        if complaint and not board.error():
            raise CliError(f"the clients of {model} failed: {complaint}")


def perform(show: Show, board: Board, server: ServerProcess) -> None:
    """Shows the board for `seconds`, or until a process fails."""
    console = Console()
    live = console.is_terminal and not show.plain and console.height >= SMALLEST_HEIGHT
    view = LiveScreen(board, console, show.seconds) if live else PlainLines(board)
    ended = threading.Event()
    view.open()
    try:
        deadline_s = time.monotonic() + show.seconds
        kill_at_s = time.monotonic() + KILL_EVERY_S if show.chaos else math.inf
        while (left_s := deadline_s - time.monotonic()) > 0 and not board.error():
            if server.died():
                raise CliError(server.died())
            if time.monotonic() >= kill_at_s:
                board.killed(time.monotonic())
                view.killed()
                server.kill()
                server.start_again()
                board.back(time.monotonic())
                kill_at_s = time.monotonic() + KILL_EVERY_S
            with contextlib.suppress(OSError):
                board.scraped(fetch(server.metrics_address), time.monotonic())
            ended.wait(min(LOOK_EVERY_S, left_s))
    finally:
        view.close()
