"""`carousel health`: does the server take work, and each of its models?"""

from __future__ import annotations

import typer

from carousel.cli.connect import connected
from carousel.cli.exits import CliError
from carousel.cli.options import Options, command
from carousel.cli.printing import print_records


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @command(app, "health")
    def health(options: Options) -> None:
        """Ask the server whether it and each of its models take work.

        Exit code 0 if all do, 1 if one does not, 3 if nobody answers.
        """
        with connected(options) as client:
            records = [{"model": "(server)", "health": str(client.health())}]
            records += [
                {"model": model.name, "health": str(client.health(model.name))}
                for model in client.models()
            ]
        print_records(options, records, ("model", "health"))
        sick = [record["model"] for record in records if record["health"] != "serving"]
        if sick:
            raise CliError(f"not serving: {', '.join(sick)}", "see the server's log")
