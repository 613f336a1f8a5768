"""`carousel config`: the server's settings, and where each comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from carousel.cli.options import Options, Output, command
from carousel.cli.printing import print_json, print_line, print_records
from carousel.cli.settings import assignments

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file of settings.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="As in carousel serve; may be repeated."),
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(no_args_is_help=True, help="Show and check the server's settings.")
    app.add_typer(group, name="config")

    @command(group, "show")
    def show(options: Options, config: ConfigFile = None, set_: Assignments = None) -> None:
        """Show each setting, its value and where that comes from."""
        from carousel_server.config_sources import load_settings

        settings, provenance = load_settings(assignments(set_ or []), config)
        values = settings.model_dump(mode="json")
        records = [
            {"setting": name, "value": shown(options, value), "from": str(provenance[name])}
            for name, value in values.items()
        ]
        print_records(options, records, ("setting", "value", "from"))

    @command(group, "check")
    def check(
        options: Options,
        config: Annotated[Path | None, typer.Argument(metavar="[FILE]")] = None,
        set_: Assignments = None,
    ) -> None:
        """Say whether a settings file, the environment and --set make valid settings."""
        from carousel_server.config_sources import load_settings

        _, provenance = load_settings(assignments(set_ or []), config)
        changed = sum(source != "default" for source in provenance.values())
        if options.output is Output.JSON:
            print_json({"valid": True, "changed": changed})
        else:
            given = "1 setting is given" if changed == 1 else f"{changed} settings are given"
            print_line(f"valid; {given}, the others are defaults")

    @command(group, "schema")
    def schema(_options: Options) -> None:
        """Print the settings as a JSON schema, for editors and deployment checks."""
        from carousel_server.config import Settings

        print_json(Settings.model_json_schema())


def shown(options: Options, value: Any) -> Any:
    """A value as it would be written in a file: a port is no quantity, so 50051 stays 50051."""
    return value if options.output is Output.JSON or value is None else json.dumps(value)
