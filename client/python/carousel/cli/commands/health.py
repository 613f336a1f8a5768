"""`carousel health`: checks a server, its models and its store."""

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
        """Show whether the server, each of its models and its store are serving.

        The exit code is 0 if all are, 1 if one is not, and 3 if no server answers. Without a token, a
        server that requires one answers only for itself and its store. Of several servers, one that answers
        is asked. To check each, name it alone.
        """
        records = states(options)
        print_records(options, records, ("model", "health"))
        sick = [record["model"] for record in records if record["health"] != "serving"]
        if sick:
            raise CliError(f"not serving: {', '.join(sick)}", "see the server's log")


def states(options: Options) -> list[dict[str, str]]:
    """The health of the server, of each model and of its store. Raises as `connected`."""
    with connected(options) as client:
        records = [{"model": "(server)", "health": str(client.health())}]
        records += [
            {"model": name, "health": str(client.health(name))}
            for name in model_names(client, options)
        ]
        store = client.health(store=True)
        if str(store) != "unknown":  # it has a store
            records.append({"model": "(store)", "health": str(store)})
    return records


def model_names(client: carousel.Client, options: Options) -> list[str]:
    """The names of the models. Empty where the server requires a token for them."""
    import carousel

    try:
        return [model.name for model in client.models()]
    except carousel.TokenInvalidError:
        if options.token:
            raise
        note("the server lists its models only with a token: set --token or CAROUSEL_TOKEN")
        return []
