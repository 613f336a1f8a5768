"""`carousel config`: shows and checks the server's settings."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from carousel.cli.exits import usage_error
from carousel.cli.options import Options, Output, assignments, command
from carousel.cli.printing import note, print_json, print_line, print_records

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file of settings.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="As in carousel serve. May be repeated."),
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(no_args_is_help=True, help="Show and check the server's settings.")
    app.add_typer(group, name="config")

    @command(group, "show")
    def show(options: Options, config: ConfigFile = None, set_: Assignments = None) -> None:
        """Show each setting with its value and its source. Passwords and tokens are ***."""
        from carousel_server.process.config_sources import load_settings, shown

        settings, provenance = load_settings(assignments(set_ or []), config)
        records = [
            {"setting": name, "value": as_written(options, value), "from": str(provenance[name])}
            for name, value in shown(settings).items()
        ]
        print_records(options, records, ("setting", "value", "from"))

    @command(group, "check")
    def check(
        options: Options,
        config: Annotated[Path | None, typer.Argument(metavar="[FILE]")] = None,
        set_: Assignments = None,
        settings_only: Annotated[
            bool,
            typer.Option(
                "--settings-only",
                help="Check the values only, without models, addresses, store and files.",
            ),
        ] = False,
    ) -> None:
        """Check whether a server could start with a settings file, the environment and --set.

        Loads every package, binds the addresses for a moment, and opens and closes the store.
        """
        from carousel_server.process.config_sources import load_settings

        settings, provenance = load_settings(assignments(set_ or []), config)
        changed = sum(source != "default" for source in provenance.values())
        report_check(options, changed, [] if settings_only else rehearsed(settings))

    @command(group, "schema")
    def schema(_options: Options) -> None:
        """Print the settings as a JSON schema, for editors and deployment checks."""
        from carousel_server.process.config import Settings

        print_json(Settings.model_json_schema())


def rehearsed(settings: Any) -> list[dict[str, str]]:
    """The problems that a server would have at its start with these settings."""
    from carousel_server.process.rehearsal import rehearse

    return [asdict(problem) for problem in rehearse(settings)]


def report_check(options: Options, changed: int, problems: list[dict[str, str]]) -> None:
    """Prints the result of a check.

    Raises:
        CliError: the last problem. The others are printed.
    """
    given = "1 setting is given" if changed == 1 else f"{changed} settings are given"
    if options.output is Output.JSON:
        print_json({"valid": not problems, "changed": changed, "problems": problems})
    elif not problems:
        print_line(f"valid; {given}, the others have their defaults")
    if not problems:
        return
    *others, last = problems
    for problem in others:
        note(f"carousel: {problem['setting']}: {problem['cause']}")
        note(f"  fix: {problem['fix']}")
    raise usage_error(f"{last['setting']}: {last['cause']}", last["fix"])


def as_written(options: Options, value: Any) -> Any:
    """A value as in a settings file, so that 50051 has no separator."""
    return value if options.output is Output.JSON or value is None else json.dumps(value)
