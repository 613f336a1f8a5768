"""`carousel models import`: makes a package from a model file of another library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from carousel.cli.options import Options, Output, command
from carousel.cli.printing import note, print_json, print_line


def register_import(group: typer.Typer) -> None:
    """Adds the command."""

    @command(group, "import")
    def import_(
        options: Options,
        file: Annotated[Path, typer.Argument(help="The model's file.")],
        name: Annotated[
            str | None, typer.Option("--as", metavar="NAME", help="Name of the package.")
        ] = None,
        dir_: Annotated[Path, typer.Option("--dir", help="Folder of the new package.")] = Path(),
        check: Annotated[
            bool, typer.Option("--check", help="Run the original too, and compare each step.")
        ] = False,
        overwrite: Annotated[
            bool, typer.Option("--overwrite", help="Replace an existing package.")
        ] = False,
        state: Annotated[
            list[str] | None,
            typer.Option(
                metavar="IN:OUT",
                help="A state: the input that takes it, and the output of its next value. May be repeated.",
            ),
        ] = None,
        constant: Annotated[
            list[str] | None,
            typer.Option(
                metavar="NAME=NUMBER",
                help="An input that is always the same, such as sr=16000. May be repeated.",
            ),
        ] = None,
        context_: Annotated[
            int | None,
            typer.Option("--context", help="So many numbers of the rows before stand in front."),
        ] = None,
        shape: Annotated[
            list[str] | None,
            typer.Option(
                metavar="NAME=DIMS",
                help="An input's shape, with B for the batch: state=2,B,128. May be repeated.",
            ),
        ] = None,
        input_: Annotated[
            str | None, typer.Option("--input", help="The input that takes the row of a step.")
        ] = None,
        output: Annotated[
            str | None, typer.Option("--output", help="The output that gives the row of a step.")
        ] = None,
    ) -> None:
        """Make a package from a model file of another library."""
        common = {"name": name, "dir": dir_, "check": check, "overwrite": overwrite}
        of_reader = {
            "state": state, "constant": constant, "context": context_, "shape": shape,
            "input": input_, "output": output,
        }  # fmt: skip
        import_model(options, file, common, of_reader)


def import_model(
    options: Options, file: Path, common: dict[str, Any], of_reader: dict[str, Any]
) -> None:
    """Imports a file and prints the package.

    Args:
        options: of every command.
        file: the model's file.
        common: arguments of `import_file` for every file.
        of_reader: options of some readers. None is not given.
    """
    import carousel_models

    from .models import of_manifest

    notes: list[str] = []
    manifest = carousel_models.import_file(file, note=notes.append, **common, **of_reader)
    if options.output is Output.JSON:
        print_json({**of_manifest(manifest), "notes": notes})
        return
    for text in notes:
        note(text)
    print_line(f"created {common['dir'] / manifest.name}: {manifest.description}")
