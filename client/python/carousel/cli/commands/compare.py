"""`carousel compare`: measures recurrent cells on this machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from carousel.cli.exits import did_you_mean, usage_error
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
        cells: Annotated[
            str, typer.Option(metavar="NAME,…", help="The cells to compare.", show_default="all")
        ] = "",
    ) -> None:
        """Compare RNN, LSTM, GRU and newer cells: structure, quality, speed, and where each fits."""
        from carousel_models import compare as comparison

        chosen = known_cells(cells)
        if plot is not None:
            ready_to_draw(plot)
        machine = comparison.this_machine()
        if machine.busy:
            note(
                f"the machine is busy (load {machine.load_before:.1f} on {machine.cores} cores): "
                "this takes longer, and its times are too high; stop other programs and run it again"
            )
        with shown() as progress:
            result = comparison.run(progress=progress, cells=chosen)
        if options.output is Output.JSON:
            print_json(asdict(result))
        else:
            print_rich(comparison.table(result))
        if plot is not None:
            comparison.plot(result, plot)
            note(f"picture written to {plot}")


def known_cells(names: str) -> tuple[str, ...]:
    """The cells of a list with commas, each once; all if it is empty.

    Raises:
        CliError: a cell is not compared.
    """
    from carousel_models.compare.cells import CELLS

    chosen = (
        tuple(dict.fromkeys(name.strip() for name in names.split(","))) if names else tuple(CELLS)
    )
    for name in chosen:
        if name not in CELLS:
            hint = did_you_mean(name, CELLS, shown=len(CELLS))
            raise usage_error(f"there is no cell '{name}' to compare", hint)
    return chosen


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
