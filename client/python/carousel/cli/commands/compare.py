"""`carousel compare`: RNN, LSTM and GRU beside each other, measured here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from carousel.cli.options import Options, Output, command
from carousel.cli.printing import note, print_json, print_rich


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @command(app, "compare")
    def compare(
        options: Options,
        plot: Annotated[
            Path | None, typer.Option(metavar="FILE.png", help="Also draw a picture.")
        ] = None,
    ) -> None:
        """Compare RNN, LSTM and GRU: structure, quality, speed, and where each fits."""
        from carousel_models import compare as comparison

        note("measuring the three models on this machine …")
        result = comparison.run()
        if options.output is Output.JSON:
            print_json(asdict(result))
        else:
            print_rich(comparison.table(result))
        if plot is not None:
            comparison.plot(result, plot)
            note(f"picture written to {plot}")
