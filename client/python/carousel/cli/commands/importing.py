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
    ) -> None:
        """Make a package from a model file of another library."""
        common = {"name": name, "dir": dir_, "check": check, "overwrite": overwrite}
        import_model(options, file, common, {})


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
