"""Rows of numbers from CSV, one at a time: a slow pipe is read as it flows."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .exits import CliError, usage_error

if TYPE_CHECKING:
    import carousel


BYTE_ORDER_MARK = "\ufeff"


@contextmanager
def opened(source: str) -> Iterator[TextIO]:
    """The file `source`, or stdin for "-".

    Raises:
        CliError: there is no such file, or stdin is not UTF-8. The bytes of a file are checked line by line.
    """
    try:
        if source == "-":
            yield sys.stdin
            return
        with existing(source).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise not_text(source) from error


def existing(source: str) -> Path:
    """The path of a file or a pipe that is there."""
    path = Path(source)
    if path.is_dir():
        raise usage_error(f"{source} is a folder", "name a file in it, or - for stdin")
    if not path.exists():
        raise usage_error(f"there is no file {source}", "name a file, or - for stdin")
    return path


def not_text(source: str, where: str = "") -> CliError:
    """For bytes where text should be."""
    name = "stdin" if source in {"-", "<stdin>"} else source
    return usage_error(f"{name} is not UTF-8 text{where}", "convert it, as with iconv -t utf-8")


def parsed(lines: Iterable[str], width: int) -> Iterator[tuple[int, list[float]]]:
    """Lines by their number, as `width` numbers. A first line without any is a header: it is passed over.

    Raises:
        CliError: a line is no CSV, has another number of cells, or a cell is no finite number, and names
            the line; or there is no row at all.
    """
    rows = 0
    for number, cells in records(lines):
        if not cells:
            continue
        row = [as_float(cell) for cell in cells]
        if number == 1 and all(value is None for value in row):
            continue
        if len(row) != width:
            raise usage_error(
                f"line {number} has {counted(len(row))}, the model's row has {width}",
                "give each row that many numbers, separated by commas",
            )
        values = (checked(value, cell, number) for value, cell in zip(row, cells, strict=True))
        yield number, list(values)
        rows += 1
    if not rows:
        raise usage_error(
            "there is no row of numbers in the input", "a sequence has at least one step"
        )


def records(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Records by the number of their first line, each as its cells.

    Raises:
        CliError: a record is no CSV, or a line is not UTF-8.
    """
    reader = csv.reader(line_by_line(lines))
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise usage_error(
                f"line {number} is no CSV: {error}",
                "close the quotes, and end each line with a line feed",
            ) from error
        yield number, cells


def counted(cells: int) -> str:
    """So many cells."""
    return "1 cell" if cells == 1 else f"{cells} cells"


def inputs(lines: Iterable[str], model: carousel.ModelInfo) -> Iterator[Any]:
    """Rows in the model's shape: a token id, or a (nested) row of floats.

    Raises:
        CliError: as `parsed`, or a number that the model's row cannot hold, and names the line.
    """
    import numpy as np

    spec = model.input
    most = float(np.finfo(np.float32).max)
    for number, row in parsed(lines, math.prod(spec.shape)):
        for value in row:
            if spec.dtype == "<f4":
                check_float(value, number, most)
            else:
                check_token(value, number, model.vocabulary)
        yield np.array(row).astype(spec.dtype).reshape(spec.shape)


def check_float(value: float, line: int, most: float) -> None:
    """Refuses a number that would become infinite on its way to the model."""
    if abs(value) > most:
        raise usage_error(
            f"line {line}: {value:g} is too large for a float32", "scale it, or drop the line"
        )


def check_token(value: float, line: int, vocabulary: int) -> None:
    """Refuses what is no token id of the model."""
    if not value.is_integer():
        raise usage_error(f"line {line}: {value:g} is no token id", "give whole numbers")
    if not 0 <= value < vocabulary:
        raise usage_error(
            f"line {line}: {value:.0f} is no token of the model", f"give 0 to {vocabulary - 1}"
        )


def line_by_line(lines: Iterable[str]) -> Iterator[str]:
    """Lines as they come: `readline` does not wait for a full buffer as iterating a pipe may.

    A byte order mark, which spreadsheets write, is dropped: it would make a header of the first row.

    Raises:
        CliError: a line is not UTF-8.
    """
    readline = getattr(lines, "readline", None)
    for number, line in enumerate(iter(readline, "") if readline else lines, start=1):
        try:
            line.encode()
        except UnicodeEncodeError as error:  # what "surrogateescape" has made of other bytes
            raise not_text(getattr(lines, "name", "-"), f" in line {number}") from error
        yield line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line


def as_float(cell: str) -> float | None:
    """The number in a cell, or None."""
    try:
        return float(cell)
    except ValueError:
        return None


def checked(value: float | None, cell: str, line: int) -> float:
    """`value`, which must be a finite number."""
    if value is None:
        fix = (
            "separate the cells with commas" if ";" in cell or "\t" in cell else "correct the line"
        )
        raise usage_error(f"line {line}: '{cell.strip()}' is no number", fix)
    if not math.isfinite(value):
        raise usage_error(
            f"line {line}: '{cell.strip()}' is no finite number",
            "fill in a number, or drop the line",
        )
    return value
