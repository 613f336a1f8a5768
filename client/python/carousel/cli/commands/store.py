"""`carousel store`: copies a server's store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from carousel.cli.options import Options, Output, command
from carousel.cli.printing import print_json, print_line


def register(app: typer.Typer) -> None:
    """Adds the command."""
    group = typer.Typer(no_args_is_help=True, help="Copy the store of a server.")
    app.add_typer(group, name="store")

    @command(group, "backup")
    def backup(
        options: Options,
        source: Annotated[
            str, typer.Argument(help="The store, as in the setting `store`: sqlite:FILE.")
        ],
        destination: Annotated[Path, typer.Argument(help="A new file for the copy.")],
    ) -> None:
        """Copy a store into a new file and check the copy. The server may run.

        Run it on the server's machine as the server's user, because the server writes the copy.
        """
        from carousel_server.store import back_up_store

        copied = back_up_store(source, destination)
        if options.output is Output.JSON:
            print_json({"file": str(destination), **asdict(copied)})
        else:
            what = "1 session" if copied.sessions == 1 else f"{copied.sessions:,} sessions"
            print_line(f"copied {what} to {destination}, {copied.bytes:,} bytes")
