"""Output rows on stdout, one line each: CSV, or JSON objects."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from .options import Options, Output
from .printing import print_line, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

Number = int | float


class RowWriter:
    """Writes rows of one model. CSV begins with a line of names: seq, then one for each number."""

    def __init__(self, options: Options, labels: Sequence[str] = ()) -> None:
        self._json = options.output is Output.JSON
        self._labels = tuple(labels)
        self._seq = 0
        # Numbers of rows after which a line of CSV stays empty.
        self._parts: set[int] = set()

    def part_after(self, rows: int) -> None:
        """Rows after so many are another part. In CSV an empty line stands between."""
        self._parts.add(rows)

    def write(self, row: Any) -> None:
        """Writes one row: an array of one field, or a record of several."""
        fields = as_fields(row)
        label = self._label(fields)
        is_part = self._seq in self._parts
        self._parts.discard(self._seq)
        self._seq += 1
        if self._json:
            extra = {} if label is None else {"label": label}
            print_line(json.dumps({"seq": self._seq, **fields, **extra}, allow_nan=False))
            return
        flat = [pair for name, value in fields.items() for pair in flattened(name, value)]
        named = [] if label is None else [("label", printable(label, kept=""))]
        if self._seq == 1:
            print_line(",".join(["seq", *(name for name, _ in [*flat, *named])]))
        elif is_part:
            print_line("")
        cells = (
            f"{value:.7g}" if isinstance(value, float) else str(value)
            for _, value in [*flat, *named]
        )
        print_line(",".join([str(self._seq), *cells]))

    def _label(self, fields: dict[str, Any]) -> str | None:
        """The class name of a row that is the index of a named class."""
        index = fields.get("index")
        return self._labels[index] if self._labels and isinstance(index, int) else None


def as_fields(row: Any) -> dict[str, Any]:
    """A row by field, with numbers and lists. The field of a row without fields is "y"."""
    names = getattr(getattr(row, "dtype", None), "names", None)
    if names:
        return {name: finite(row[name].tolist()) for name in names}
    value = row.tolist() if hasattr(row, "tolist") else row
    return {"index" if isinstance(value, int) else "y": finite(value)}


def finite(value: Any) -> Any:
    """The value, with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flattened(name: str, value: Any) -> list[tuple[str, Number]]:
    """Names and numbers of a field: y becomes y_0, y_1, …. A single number has the field's name."""
    if not isinstance(value, list):
        return [(name, value)]
    if len(value) == 1 and not isinstance(value[0], list):
        return [(name, value[0])]
    return [pair for i, part in enumerate(value) for pair in flattened(f"{name}_{i}", part)]
