"""`carousel stream`: streams rows through a session and prints the outputs."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from os import fstat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carousel.cli.connect import connected
from carousel.cli.exits import CliError, usage_error
from carousel.cli.options import Options, command
from carousel.cli.printing import note
from carousel.cli.results import RowWriter
from carousel.cli.rows import existing, ignored, inputs, opened
from carousel.cli.sound import is_wav, samples_of, write_wav
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
            typer.Argument(
                metavar="[FILE.csv|FILE.wav|-]",
                help="File with rows of CSV, or sound for a model of frames, or - for stdin.",
            ),
        ] = "-",
        session: Annotated[str | None, typer.Option(help="Continue in this open session.")] = None,
        initial: Initial = "",
        keep: Annotated[bool, typer.Option("--keep", help="Leave the session open.")] = False,
        wav: Annotated[
            Path | None,
            typer.Option(metavar="FILE.wav", help="Write the output signal to this file."),
        ] = None,
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
        From a pipe or terminal, each row is answered before the next one is read. Files are pipelined. A WAV
        file is cut into the model's frames.
        """
        check_new(initial, session)
        if is_wav(source) or wav is not None:
            with connected(options) as client:
                stream_sound(
                    options,
                    client.model(model),
                    existing(source),
                    wav,
                    session_for(client, model, session, keep, initial),
                )
            return
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


def stream_sound(
    options: Options,
    model: carousel.ModelInfo,
    source: Path,
    target: Path | None,
    session: AbstractContextManager[carousel.Session],
) -> None:
    """Streams a WAV file, and prints the output rows or writes them to another one.

    Raises:
        CliError: see `samples_of`, or the outputs are no signal that a file can hold.
    """
    signal = model.signal
    if target is not None and (signal is None or not signal.output):
        raise usage_error(f"the outputs of {model.name} are no signal", "leave out --wav")
    with samples_of(source, model) as chunks, session as bound:
        rows = bound.stream_audio(chunks)
        if target is None:
            writer = RowWriter(options, model.labels)
            for row in rows:
                writer.write(row)
            return
        assert signal is not None
        too_large = write_wav(target, signal.rate, rows)
    delay = f", {signal.delay} samples late" if signal.delay else ""
    note(f"signal written to {target}{delay}")
    if too_large:
        note(f"{too_large} samples were beyond -1 to 1 and were cut")


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
