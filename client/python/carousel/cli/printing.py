"""Results on stdout: a table for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from unicodedata import category

from .options import Options, Output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Record = Mapping[str, Any]
WRAPPED = {"description", "value"}
"""Columns whose texts may have several lines."""
WRAPPED_WIDTH = 16
PADDING = 3
OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories that a terminal interprets or cannot show."""
JOINERS = "\u200c\u200d\u00ad"
"""Characters of those categories that ordinary texts have."""
NAMES = {"seed"}
"""Integers that people copy, printed without separators."""


def print_records(options: Options, records: Sequence[Record], columns: Sequence[str]) -> None:
    """Prints a list: a table of `columns`, or a JSON array of whole records.

    A narrow terminal leaves out the last columns, and a note names them.
    """
    if options.output is Output.JSON:
        print_json(list(records))
        return
    console = stdout_console()
    shown = fitting(records, columns, console.width)
    console.print(table_of(records, shown))
    if len(shown) < len(columns):
        left_out = ", ".join(columns[len(shown) :]).replace("_", " ")
        note(f"the terminal is too narrow for: {left_out}; -o json prints everything")


def fitting(records: Sequence[Record], columns: Sequence[str], width: int) -> Sequence[str]:
    """The first columns that fit into a width, at least one."""
    widths = [width_of(column, records) for column in columns]
    shown = len(columns)
    while shown > 1 and sum(widths[:shown]) > width:
        shown -= 1
    return columns[:shown]


def width_of(column: str, records: Sequence[Record]) -> int:
    """Width of a column in characters, with the space around it."""
    from rich.cells import cell_len

    needed = max(cell_len(text) for text in (column, *(as_cell(r.get(column)) for r in records)))
    return PADDING + (min(needed, WRAPPED_WIDTH) if column in WRAPPED else needed)


def table_of(records: Sequence[Record], columns: Sequence[str]) -> Table:
    """Records as a table. Only long texts are wrapped."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        numeric = bool(records) and all(is_number(record.get(column)) for record in records)
        table.add_column(
            column.replace("_", " "),
            justify="right" if numeric else "left",
            no_wrap=column not in WRAPPED,
        )
    for record in records:
        table.add_row(*(as_cell(record.get(column)) for column in columns))
    return table


def print_record(options: Options, record: Record) -> None:
    """Prints one record: a line for each field, or a JSON object."""
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
    """Prints a table or the like."""
    stdout_console().print(renderable)


def stdout_console() -> Console:
    """Rich's console on stdout. In a pipe it is wide enough for everything."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        return console
    return Console(highlight=False, markup=False, emoji=False, width=200)


def print_json(value: object) -> None:
    """Prints indented JSON."""
    sys.stdout.write(json.dumps(value, indent=2, default=plain) + "\n")


def plain(value: object) -> str:
    """Values that JSON does not have: times as ISO 8601, others as text."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def print_line(text: str) -> None:
    """Prints one line and flushes it, for readers of a pipe."""
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Prints a line on stderr that is not part of the result."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def is_number(value: object) -> bool:
    """True for values that a table aligns to the right."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def printable(text: str, kept: str = "\n") -> str:
    """The text with its control characters escaped, except those in `kept`.

    Names, labels and descriptions come from servers and packages. Marks of the writing direction are escaped
    too, because with them a line can look like another.
    """
    if text.isprintable():
        return text
    return "".join(
        ascii(c)[1:-1] if category(c) in OBEYED and c not in JOINERS and c not in kept else c
        for c in text
    )


def as_cell(value: object) -> str:
    """A value for people, with control characters escaped."""
    return printable(as_text(value).replace("\n", " "), kept="")


def as_text(value: object) -> str:
    """A value as text."""
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
