"""`carousel serve`: runs a server with the models of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from carousel.cli.exits import usage_error
from carousel.cli.options import Options, assignments, command, from_environment


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @command(app, "serve")
    def serve(
        options: Options,
        models: Annotated[Path | None, typer.Option(help="Folder of model packages.")] = None,
        host: Annotated[
            str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")
        ] = None,
        port: Annotated[int | None, typer.Option(help="Port for gRPC. Default: 50051.")] = None,
        http_port: Annotated[
            str | None,
            typer.Option(metavar="PORT|off", help="Port for HTTP, or off. Default: 8080."),
        ] = None,
        metrics_port: Annotated[
            int | None, typer.Option(help="Port for /metrics. Default: 9464.")
        ] = None,
        device: Annotated[
            str | None, typer.Option(help="auto, cpu, cuda or cuda:N. Default: auto.")
        ] = None,
        replicas: Annotated[
            str | None,
            typer.Option(
                metavar="N|auto",
                help="Processes that share the store, each with a port; auto is one a GPU. Default: 1.",
            ),
        ] = None,
        store: Annotated[
            str | None,
            typer.Option(
                help="Store that keeps sessions over a restart: sqlite:FILE or redis://HOST:PORT/DB."
            ),
        ] = None,
        allow_custom: Annotated[
            list[str] | None,
            typer.Option(
                metavar="MODULE:CLASS",
                help="A custom module that packages may import and run. May be repeated.",
            ),
        ] = None,
        set_: Annotated[
            list[str] | None,
            typer.Option("--set", metavar="KEY=VALUE", help="Any other setting. May be repeated."),
        ] = None,
        config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    ) -> None:
        """Serve the models of a folder until Ctrl-C.

        Options override CAROUSEL_… variables, and variables override the file.
        carousel config show lists all settings.
        """
        if options.tls != from_environment().tls:
            raise usage_error(
                "--tls, --ca, --cert, --key and --server-name are options of clients",
                "set the server's certificate by --set tls-cert=FILE --set tls-key=FILE",
            )
        flags: dict[str, Any] = {
            "models": models, "host": host, "port": port, "http_port": http_port,
            "metrics_port": metrics_port,
            "device": device, "replicas": replicas, "store": store,
            "allow_custom": tuple(allow_custom or ()) or None,
        }  # fmt: skip
        given = {key: value for key, value in flags.items() if value is not None}
        run(given | assignments(set_ or []), config)


def run(given: dict[str, Any], config: Path | None) -> None:
    """Loads the settings and serves until a signal. Ends the command with the server's exit code."""
    from carousel_server.process.config_sources import load_settings
    from carousel_server.process.main import serve

    settings, _ = load_settings(given, config)
    if not Path(settings.models).is_dir():
        raise usage_error(
            f"there is no folder {settings.models}",
            "name a folder of model packages: --models DIR, or make one: carousel models create",
        )
    raise typer.Exit(serve(settings))
