"""Results on stdout: a table for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .options import Options, Output

Record = Mapping[str, Any]
NAMES = {"seed"}
"""Integers that are no quantities: nobody counts in them, people copy them."""


def print_records(options: Options, records: Sequence[Record], columns: Sequence[str]) -> None:
    """A list of things: a table of `columns`, or a JSON array of whole records."""
    if options.output is Output.JSON:
        print_json(list(records))
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        numeric = bool(records) and all(is_number(record.get(column)) for record in records)
        table.add_column(column.replace("_", " "), justify="right" if numeric else "left")
    for record in records:
        table.add_row(*(as_cell(record.get(column)) for column in columns))
    print_rich(table)


def print_record(options: Options, record: Record) -> None:
    """One thing: a line for each field, or a JSON object."""
    if options.output is Output.JSON:
        print_json(dict(record))
        return
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in record.items():
        table.add_row(key.replace("_", " "), str(value) if key in NAMES else as_cell(value))
    print_rich(table)


def print_rich(renderable: object) -> None:
    """Prints a table or the like; into a pipe at a width that loses nothing."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    console.print(renderable)


def print_json(value: object) -> None:
    """JSON, indented."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_line(text: str) -> None:
    """One line, at once: a reader at the other end of a pipe sees it now."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A line for people that is no part of the result: on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def is_number(value: object) -> bool:
    """True for what a table aligns to the right."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_cell(value: object) -> str:
    """A value as people read it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value)
