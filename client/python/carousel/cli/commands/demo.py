"""`carousel demo`: shows a server with dozens of clients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from carousel.cli.options import Options, command


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @command(app, "demo")
    def demo(
        _options: Options,
        seconds: Annotated[float, typer.Option(min=1, help="How long the clients run.")] = 20,
        models: Annotated[Path | None, typer.Option(help="Folder of the shipped models.")] = None,
        device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
        chaos: Annotated[
            bool,
            typer.Option("--chaos", help="Kill the server every few seconds, with signal 9."),
        ] = False,
        plain: Annotated[
            bool, typer.Option("--plain", help="Print lines instead of a live view.")
        ] = False,
    ) -> None:
        """Start a server with the shipped models, and show many clients that use it.

        Some clients write Python with the character model. Some stream sunspot numbers through the
        forecaster. Some tag whole Python files. Everything is stopped at the end. With --chaos the
        server has a store and is killed every few seconds. The clients continue without a lost or a
        repeated step.
        """
        from carousel.cli.demo.show import Show, run
        from carousel_models import zoo_path

        run(Show(models or zoo_path(), seconds, device, plain, chaos))
