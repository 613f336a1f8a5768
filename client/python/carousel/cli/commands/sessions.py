"""`carousel sessions`: shows, opens, closes and copies sessions of a server."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carousel.cli.connect import connected
from carousel.cli.exits import usage_error
from carousel.cli.options import Options, Output, command
from carousel.cli.printing import (
    Record,
    note,
    print_json,
    print_line,
    print_record,
    print_records,
)
from carousel.cli.states import COLUMNS as COLUMNS_OF_STATES
from carousel.cli.states import Initial, of_states, read_states, write_states

if TYPE_CHECKING:
    import carousel

COLUMNS = ("id", "model", "phase", "applied", "ack", "durable", "epoch", "durability", "idle_ttl_s")
COLUMNS_OF_REPLICAS = ("id", "model", "holder", *COLUMNS[2:])
"""Where another replica than the one that answers holds a session."""
Id = Annotated[str, typer.Argument(metavar="ID", help="The session's id.")]
NewId = Annotated[
    str | None, typer.Option("--id", help="The new session's id. By default the server chooses it.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(
        no_args_is_help=True, help="List, show, open, close, export, import, fork sessions."
    )
    app.add_typer(group, name="sessions")

    @command(group, "list")
    def list_sessions(
        options: Options,
        model: Annotated[str, typer.Option(help="List only sessions of this model.")] = "",
    ) -> None:
        """List your open sessions."""
        with connected(options) as client:
            records = [of_session(session) for session in client.sessions(model)]
        elsewhere = any(record["holder"] for record in records)
        print_records(options, records, COLUMNS_OF_REPLICAS if elsewhere else COLUMNS)
        if elsewhere:
            note_holder()

    @command(group, "show")
    def show(options: Options, session_id: Id) -> None:
        """Show one session: its phase and cursors."""
        with connected(options) as client:
            record = of_session(client.session_info(session_id))
        print_record(options, record)
        if record["holder"]:
            note_holder()

    @command(group, "open")
    def open_(
        options: Options,
        model: Annotated[str, typer.Argument(help="Name of a causal model.")],
        new_id: NewId = None,
        durability: Annotated[
            str | None,
            typer.Option(
                help="none, async, sync or sync+fsync. Default: async if the server has a store."
            ),
        ] = None,
        seed: Annotated[int | None, typer.Option(min=0, help="Seed of its random numbers.")] = None,
        initial: Initial = "",
        state: Annotated[
            Path | None,
            typer.Option(
                metavar="FILE", help="An .npz file with states by name. Others are initial."
            ),
        ] = None,
    ) -> None:
        """Open a session for --session of generate and stream. It stays open."""
        level, given = durability_of(durability), None if state is None else read_states(state)
        with connected(options) as client:
            session = client.session(
                model, session_id=new_id, durability=level, seed=seed, initial=initial, state=given
            )
            session.detach()
            done = "found" if session.applied else "opened"
            say(options, done, session.id, applied=session.applied)

    @command(group, "close")
    def close(
        options: Options, session_ids: Annotated[list[str], typer.Argument(metavar="ID…")]
    ) -> None:
        """Close sessions and delete their state."""
        with connected(options) as client:
            for session_id in session_ids:
                client.close_session(session_id)
                say(options, "closed", session_id)

    register_moving(group)


def register_moving(group: typer.Typer) -> None:
    """Adds the commands that read and copy a session's state."""

    @command(group, "state")
    def state(
        options: Options,
        session_id: Id,
        file: Annotated[
            Path | None, typer.Argument(help="An .npz file for the arrays, by name.")
        ] = None,
    ) -> None:
        """Show the states of a session, or write them to a file. Its client may continue."""
        from carousel._sync.replicas import At
        from carousel._sync.session import state_of

        with connected(options) as client:
            info = client.model(client.session_info(session_id).model)
            states = state_of(client._replicas, At(session_id))  # noqa: SLF001 - attaches nothing
        if file is None:
            print_records(options, of_states(info, states), COLUMNS_OF_STATES)
            return
        write_states(file, states)
        say(options, "wrote the states of", session_id, file=str(file), states=len(states))

    @command(group, "export")
    def export(
        options: Options,
        session_id: Id,
        file: Annotated[Path, typer.Argument(help="File for the snapshot.")],
    ) -> None:
        """Write a snapshot of a session to a file. Its client may continue at the same time."""
        from carousel._sync.replicas import At
        from carousel._sync.session import snapshot_of

        with connected(options) as client:
            snapshot = snapshot_of(client._replicas, At(session_id))  # noqa: SLF001 - attaches nothing
        file.write_bytes(snapshot)
        say(options, "exported", session_id, file=str(file), snapshot_bytes=len(snapshot))

    @command(group, "import")
    def import_(
        options: Options,
        file: Annotated[Path, typer.Argument(help="A snapshot from carousel sessions export.")],
        new_id: NewId = None,
    ) -> None:
        """Open a session from a snapshot, on a server with the same weights."""
        snapshot = file.read_bytes()
        with connected(options) as client:
            session = client.import_session(snapshot, session_id=new_id)
            session.detach()
            say(options, "opened", session.id, applied=session.applied)

    @command(group, "fork")
    def fork(
        options: Options,
        session_id: Id,
        new_id: NewId = None,
        seed: Annotated[
            int | None,
            typer.Option(
                min=0, help="Seed of its random numbers. Default: that of the other session."
            ),
        ] = None,
    ) -> None:
        """Open a new session with a copy of another's state."""
        with connected(options) as client:
            session = client.fork_session(session_id, session_id=new_id, seed=seed)
            session.detach()
            say(options, "opened", session.id, applied=session.applied)


def durability_of(given: str | None) -> str:
    """The level by its name on the command line."""
    from carousel import Durability

    levels = [level.value for level in Durability if level is not Durability.DEFAULT]
    if given is None:
        return Durability.DEFAULT.value
    if given not in levels:
        raise usage_error(f"{given!r} is not a durability", f"choose one of {', '.join(levels)}")
    return given


def of_session(session: carousel.SessionInfo) -> Record:
    """A session as a record."""
    record = asdict(session)
    return record | {"phase": str(session.phase), "durability": str(session.durability)}


def note_holder() -> None:
    """Says what the cursors of a session that another replica holds are worth."""
    note(
        "a session with a holder runs at that replica: applied and durable are those of its last commit"
    )


def say(options: Options, verb: str, session_id: str, **facts: object) -> None:
    """Prints what was done to a session."""
    if options.output is Output.JSON:
        print_json({"id": session_id, "done": verb, **facts})
    else:
        rest = "".join(f", {name.replace('_', ' ')} {value}" for name, value in facts.items())
        print_line(f"{verb} {session_id}{rest}")
