"""`carousel models import`: makes a package from a model file of another library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from carousel.cli.exits import usage_error
from carousel.cli.options import Options, Output, command
from carousel.cli.printing import note, print_json, print_line

ARRAYS = "Options of files of arrays (.npz, .safetensors)"
KERAS = "Options of Keras files (.keras, .h5, .hdf5)"
STEPS = "Options of step graphs (.onnx, .ts, .jit, .pt, .pt2)"

ENCODINGS = ("pcm16", "float32")

Rate = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="HZ", help="The rows are samples of sound, so many a second: 16000."
    ),
]
SampleType = Annotated[
    str, typer.Option("--encoding", help="Samples that clients send: pcm16 or float32.")
]
Map = Annotated[
    Path | None,
    typer.Option(
        "--map",
        metavar="FILE.toml",
        help="Says which array is which part of the model.",
        rich_help_panel=ARRAYS,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="JSON of the model, for weights alone.", rich_help_panel=KERAS
    ),
]
RecurrentActivation = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Activation of the gates, where the file does not say it: sigmoid or hard_sigmoid.",
        rich_help_panel=KERAS,
    ),
]
Unpadded = Annotated[
    bool,
    typer.Option(
        "--unpadded",
        help="No padding will be sent, so masks are left out.",
        rich_help_panel=KERAS,
    ),
]
State = Annotated[
    list[str] | None,
    typer.Option(
        metavar="IN:OUT",
        help="A state: the input that takes it, and the output of its next value. May be repeated.",
        rich_help_panel=STEPS,
    ),
]
Constant = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=NUMBER",
        help="An input that is always the same, such as sr=16000. May be repeated.",
        rich_help_panel=STEPS,
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        "--context",
        help="So many numbers of the rows before stand in front.",
        rich_help_panel=STEPS,
    ),
]
Shape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=DIMS",
        help="An input's shape, with B for the batch: state=2,B,128. May be repeated.",
        rich_help_panel=STEPS,
    ),
]
FreeBatch = Annotated[
    bool,
    typer.Option(
        "--free-batch",
        help="Change an ONNX graph that was exported for one row, so that a call takes many.",
        rich_help_panel=STEPS,
    ),
]
RowInput = Annotated[
    str | None,
    typer.Option("--input", help="The input that takes the row of a step.", rich_help_panel=STEPS),
]
RowOutput = Annotated[
    str | None,
    typer.Option(
        "--output", help="The output that gives the row of a step.", rich_help_panel=STEPS
    ),
]


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
        rate: Rate = None,
        encoding: SampleType = "pcm16",
        map_: Map = None,
        config: Config = None,
        recurrent_activation: RecurrentActivation = None,
        unpadded: Unpadded = False,
        state: State = None,
        constant: Constant = None,
        context_: Context = None,
        shape: Shape = None,
        free_batch: FreeBatch = False,
        input_: RowInput = None,
        output: RowOutput = None,
    ) -> None:
        """Make a package from a file of another library: Keras, ONNX, arrays with a map, or a step graph."""
        if encoding not in ENCODINGS:
            raise usage_error(f"'{encoding}' is no encoding", f"use {' or '.join(ENCODINGS)}")
        common = {
            "name": name, "dir": dir_, "check": check, "overwrite": overwrite,
            "rate": rate, "encoding": encoding,
        }  # fmt: skip
        of_reader = {
            "map": map_, "config": config, "recurrent_activation": recurrent_activation,
            "unpadded": unpadded or None, "state": state, "constant": constant,
            "context": context_, "shape": shape, "free_batch": free_batch or None,
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
