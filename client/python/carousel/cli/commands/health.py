"""`carousel health`: does the server take work, and each of its models?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from carousel.cli.connect import connected
from carousel.cli.exits import CliError
from carousel.cli.options import Options, command
from carousel.cli.printing import note, print_records

if TYPE_CHECKING:
    import carousel


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @command(app, "health")
    def health(options: Options) -> None:
        """Ask the server whether it, each of its models and its store take work.

        Exit code 0 if all do, 1 if one does not, 3 if no server answers. A server with tokens answers
        without one too, but then only for itself and its store.
        """
        with connected(options) as client:
            records = [{"model": "(server)", "health": str(client.health())}]
            records += [
                {"model": name, "health": str(client.health(name))}
                for name in model_names(client, options)
            ]
            store = client.health(store=True)
            if str(store) != "unknown":  # it has one
                records.append({"model": "(store)", "health": str(store)})
        print_records(options, records, ("model", "health"))
        sick = [record["model"] for record in records if record["health"] != "serving"]
        if sick:
            raise CliError(f"not serving: {', '.join(sick)}", "see the server's log")


def model_names(client: carousel.Client, options: Options) -> list[str]:
    """The models to ask about; none where the server names them to nobody without a token."""
    import carousel

    try:
        return [model.name for model in client.models()]
    except carousel.TokenInvalidError:
        if options.token:
            raise
        note("the server names its models with a token only: --token, or CAROUSEL_TOKEN")
        return []
