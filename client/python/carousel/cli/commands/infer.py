"""`carousel infer`: runs a whole sequence, such as a file for a tagger."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carousel.cli.connect import connected
from carousel.cli.exits import usage_error
from carousel.cli.options import Options, command
from carousel.cli.results import RowWriter
from carousel.cli.rows import existing, inputs, not_text, opened
from carousel.cli.states import Initial

if TYPE_CHECKING:
    import carousel


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @command(app, "infer")
    def infer(
        options: Options,
        model: Annotated[str, typer.Argument(help="Name of a model.")],
        source: Annotated[
            str, typer.Argument(metavar="FILE", help="File with the input, or - for stdin.")
        ],
        initial: Initial = "",
    ) -> None:
        """Run a whole sequence: text for a model with a tokenizer, rows of CSV for others.

        Prints one line for each step: CSV, or with -o json an object.
        """
        with connected(options) as client:
            info = client.model(model)
            outputs = client.infer(model, whole(info, source), initial=initial)
            writer = RowWriter(options, info.labels)
            for row in outputs:
                writer.write(row)


def whole(info: carousel.ModelInfo, source: str) -> Any:
    """The input: bytes for a tokenizer of bytes, a text for other tokenizers, or a list of rows."""
    if info.tokenizer:
        text = sys.stdin.buffer.read() if source == "-" else existing(source).read_bytes()
        if not text:
            raise usage_error(f"{source} is empty", "a sequence has at least one step")
        return text if info.tokenizer == "bytes" else decoded(text, source)
    with opened(source) as lines:
        return list(inputs(lines, info))


def decoded(text: bytes, source: str) -> str:
    """The text of a file, for the server's tokenizer.

    Raises:
        CliError: it is not UTF-8.
    """
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise not_text(source) from error
