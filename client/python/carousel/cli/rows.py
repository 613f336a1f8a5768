"""Rows of numbers from CSV, one at a time, so that a slow pipe is read without delay."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable, Iterable, Iterator
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
        CliError: there is no such file, or stdin is not UTF-8. A file is checked line by line.
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
    """The path of an existing file or pipe. Raises CliError."""
    path = Path(source)
    if path.is_dir():
        raise usage_error(f"{source} is a folder", "name a file in it, or - for stdin")
    if not path.exists():
        raise usage_error(f"there is no file {source}", "name a file, or - for stdin")
    return path


def not_text(source: str, where: str = "") -> CliError:
    """The error for input that is not UTF-8."""
    name = "stdin" if source in {"-", "<stdin>"} else source
    return usage_error(f"{name} is not UTF-8 text{where}", "convert it, as with iconv -t utf-8")


OnBlank = Callable[[int], None]
"""Called for an empty line, with how many rows came before it."""


def ignored(_rows: int) -> None:
    """An empty line means nothing."""


def parsed(
    lines: Iterable[str], width: int, on_blank: OnBlank = ignored
) -> Iterator[tuple[int, list[float]]]:
    """Lines as `width` numbers, by line number. A first line without numbers is a header, and is skipped.

    Raises:
        CliError: a line is not CSV or has another number of cells, a cell is not a finite number, or there
            is no row. It names the line.
    """
    rows = 0
    for number, cells in records(lines):
        if not cells:
            on_blank(rows)
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
        rows += 1
        yield number, list(values)
    if not rows:
        raise usage_error(
            "there is no row of numbers in the input", "a sequence has at least one step"
        )


def records(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Records by the number of their first line, each as its cells.

    Raises:
        CliError: a record is not CSV, or a line is not UTF-8.
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
                f"line {number} is not CSV: {error}",
                "close the quotes, and end each line with a line feed",
            ) from error
        yield number, cells


def counted(cells: int) -> str:
    """Such as "3 cells"."""
    return "1 cell" if cells == 1 else f"{cells} cells"


def inputs(
    lines: Iterable[str], model: carousel.ModelInfo, on_blank: OnBlank = ignored
) -> Iterator[Any]:
    """Rows in the model's shape: a token id, or a (nested) row of floats.

    Raises:
        CliError: as `parsed`, or the model's row cannot hold a number. It names the line.
    """
    import numpy as np

    spec = model.input
    most = float(np.finfo(np.float32).max)
    for number, row in parsed(lines, math.prod(spec.shape), on_blank):
        for value in row:
            if model.vocabulary:
                check_token(value, number, model.input_tokens)
            elif spec.dtype == "<i2":
                check_sample(value, number)
            else:
                check_float(value, number, most)
        yield np.array(row).astype(spec.dtype).reshape(spec.shape)


def check_float(value: float, line: int, most: float) -> None:
    """Refuses a number that is infinite as a float32. Raises CliError."""
    if abs(value) > most:
        raise usage_error(
            f"line {line}: {value:g} is too large for a float32", "scale it, or remove the line"
        )


def check_sample(value: float, line: int) -> None:
    """Refuses a number that is not a sample of 16 bits. Raises CliError."""
    if not value.is_integer() or not -(1 << 15) <= value < 1 << 15:
        raise usage_error(
            f"line {line}: {value:g} is not a sample of 16 bits",
            "give whole numbers, -32768 to 32767",
        )


def check_token(value: float, line: int, vocabulary: int) -> None:
    """Refuses a number that is not a token id of the model. Raises CliError."""
    if not value.is_integer():
        raise usage_error(f"line {line}: {value:g} is not a token id", "give whole numbers")
    if not 0 <= value < vocabulary:
        raise usage_error(
            f"line {line}: {value:.0f} is not a token of the model", f"give 0 to {vocabulary - 1}"
        )


def line_by_line(lines: Iterable[str]) -> Iterator[str]:
    """Lines without delay. `readline` does not wait for a full buffer, as iterating a pipe may.

    The byte order mark of spreadsheets is removed, because with it the first row would look like a header.

    Raises:
        CliError: a line is not UTF-8.
    """
    readline = getattr(lines, "readline", None)
    for number, line in enumerate(iter(readline, "") if readline else lines, start=1):
        try:
            line.encode()
        except UnicodeEncodeError as error:  # from "surrogateescape"
            raise not_text(getattr(lines, "name", "-"), f" in line {number}") from error
        yield line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line


def as_float(cell: str) -> float | None:
    """The number in a cell, or None."""
    try:
        return float(cell)
    except ValueError:
        return None


def checked(value: float | None, cell: str, line: int) -> float:
    """`value`, if it is a finite number. Raises CliError."""
    if value is None:
        fix = (
            "separate the cells with commas" if ";" in cell or "\t" in cell else "correct the line"
        )
        raise usage_error(f"line {line}: '{cell.strip()}' is not a number", fix)
    if not math.isfinite(value):
        raise usage_error(
            f"line {line}: '{cell.strip()}' is not a finite number",
            "write a number, or remove the line",
        )
    return value
