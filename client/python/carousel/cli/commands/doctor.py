"""`carousel doctor`: checks everything that commonly goes wrong, and says the fix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from carousel.cli.exits import CliError
from carousel.cli.options import DEFAULT_METRICS_PORT, Options, assignments, command

from .config import Assignments, ConfigFile

Address = Annotated[
    str | None,
    typer.Argument(metavar="[HOST:PORT]", help="A running server to check too, as with --server."),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help=f"Address of its metrics. Default: its host, port {DEFAULT_METRICS_PORT}.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @command(app, "doctor")
    def doctor(
        options: Options,
        address: Address = None,
        config: ConfigFile = None,
        set_: Assignments = None,
        metrics: Metrics = None,
    ) -> None:
        """Check this machine, the settings of its server, and a running server. Say what to do.

        Checks versions, device, kernel, transport, cores, open files, ports, TLS, tokens, store, clock and
        model packages. It changes nothing and prints no secrets. Packages are loaded, and custom modules of
        allow_custom imported, as `carousel config check` does.

        The exit code is 0 if all is well or there are warnings only, and 1 if there is a problem.
        """
        from carousel.cli.checkup.findings import Level, show

        if address:
            options = replace(options, server=address, server_given=True)
        findings = list(found(options, assignments(set_ or []), config, metrics))
        show(options, findings)
        problems = [one.check for one in findings if one.level is Level.PROBLEM]
        if problems:
            raise CliError(
                f"{len(problems)} problem{'s' * (len(problems) > 1)}: {', '.join(problems)}",
                "do what the lines above say",
            )


def found(
    options: Options, given: dict[str, str], config: Path | None, metrics: str | None
) -> Iterator[Any]:
    """All findings, in the order in which they are shown."""
    from carousel.cli.checkup.packages import packages, python
    from carousel.cli.checkup.running import running

    yield python()
    yield from packages()
    yield from of_settings(given, config)
    if options.server_given:
        host = options.server.partition(",")[0].removeprefix("dns:///").rpartition(":")[0]
        yield from running(options, metrics or f"{host}:{DEFAULT_METRICS_PORT}")


def of_settings(given: dict[str, str], config: Path | None) -> Sequence[Any]:
    """The server's own findings. None where its packages are not installed."""
    from carousel.cli.checkup.findings import Finding, Level

    try:
        from carousel_server.process.config import ConfigError
        from carousel_server.process.config_sources import load_settings
        from carousel_server.process.diagnosis import diagnose
        from carousel_server.process.findings import halves
    except ModuleNotFoundError:
        return []  # the findings about packages say so
    try:
        settings, _ = load_settings(given, config)
    except ConfigError as error:
        return [Finding("settings", Level.PROBLEM, *halves(error))]
    told = [asdict(finding) for finding in diagnose(settings)]
    return [Finding(**{**one, "level": Level(one["level"].value)}) for one in told]
