"""`carousel stream`: streams rows through a session and prints the outputs."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from os import fstat
from typing import TYPE_CHECKING, Annotated

import typer

from carousel.cli.connect import connected
from carousel.cli.exits import CliError, usage_error
from carousel.cli.options import Options, command
from carousel.cli.printing import note
from carousel.cli.results import RowWriter
from carousel.cli.rows import ignored, inputs, opened
from carousel.cli.states import Initial, check_new

if TYPE_CHECKING:
    import carousel


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @command(app, "stream")
    def stream(
        options: Options,
        model: Annotated[str, typer.Argument(help="Name of a causal model.")],
        source: Annotated[
            str,
            typer.Argument(metavar="[FILE.csv|-]", help="File with rows of CSV, or - for stdin."),
        ] = "-",
        session: Annotated[str | None, typer.Option(help="Continue in this open session.")] = None,
        initial: Initial = "",
        keep: Annotated[bool, typer.Option("--keep", help="Leave the session open.")] = False,
        reset_on_blank: Annotated[
            bool,
            typer.Option(
                "--reset-on-blank", help="After an empty line, start again from the initial state."
            ),
        ] = False,
    ) -> None:
        """Stream rows of CSV through a session and print each output row at once.

        Prints CSV, or with -o json one object a line. A first line without numbers is a header. A bad
        line ends the command, after the outputs of the lines before it.
        From a pipe or terminal, each row is answered before the next one is read. Files are pipelined.
        """
        check_new(initial, session)
        with connected(options) as client, opened(source) as lines:
            info = client.model(model)
            writer = RowWriter(options, info.labels)
            with session_for(client, model, session, keep, initial) as bound:
                ahead = 1 if source == "-" and is_live() else None

                def start_over(rows: int) -> None:
                    bound.reset()
                    writer.part_after(rows)

                rows = inputs(lines, info, start_over if reset_on_blank else ignored)
                for row in bound.stream(rows, ahead=ahead):
                    writer.write(row)


@contextmanager
def session_for(
    client: carousel.Client, model: str, session_id: str | None, keep: bool, initial: str = ""
) -> Iterator[carousel.Session]:
    """A new session, which is closed at the end unless --keep is given, or an open one, which stays open."""
    if session_id is not None:
        with client.attach(session_id) as session:
            if session.model != model:
                raise usage_error(
                    f"session {session_id} is one of {session.model}, not of {model}",
                    f"carousel stream {session.model} --session {session_id}",
                )
            yield session
        return
    with client.session(model, initial=initial) as session:
        try:
            yield session
        except CliError:  # a bad line: the outputs before it are printed
            leave_open(session, keep)
            raise
        leave_open(session, keep)


def leave_open(session: carousel.Session, keep: bool) -> None:
    """Detaches a session that stays open, and prints how to continue it."""
    if keep:
        session.detach()
        note(f"session {session.id} is still open; continue it with --session {session.id}")


def is_live() -> bool:
    """True if stdin is a pipe or a terminal, whose writer may wait for each answer."""
    return not stat.S_ISREG(fstat(sys.stdin.fileno()).st_mode)
