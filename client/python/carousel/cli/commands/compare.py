"""`carousel compare`: measures RNN, LSTM and GRU on this machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from carousel.cli.exits import usage_error
from carousel.cli.options import Options, Output, command
from carousel.cli.printing import note, print_json, print_rich
from carousel.cli.progress import shown

PICTURES = (".png", ".svg", ".pdf")


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

        if plot is not None:
            ready_to_draw(plot)
        machine = comparison.this_machine()
        if machine.busy:
            note(
                f"the machine is busy (load {machine.load_before:.1f} on {machine.cores} cores): "
                "this takes longer, and its times are too high; stop other programs and run it again"
            )
        with shown() as progress:
            result = comparison.run(progress=progress)
        if options.output is Output.JSON:
            print_json(asdict(result))
        else:
            print_rich(comparison.table(result))
        if plot is not None:
            comparison.plot(result, plot)
            note(f"picture written to {plot}")


def ready_to_draw(plot: Path) -> None:
    """Checks before the measurement that a picture can be drawn.

    Raises:
        CliError: there is no such folder, or the file's ending is not of a picture.
        ModuleNotFoundError: matplotlib is missing.
    """
    import matplotlib  # noqa: F401, ICN001 - only whether it is there

    if not plot.parent.is_dir():
        raise usage_error(f"there is no folder {plot.parent}", "make it, or name another one")
    if plot.suffix.lower() not in PICTURES:
        raise usage_error(
            f"{plot} is not the name of a picture", f"end it in {', '.join(PICTURES)}"
        )
