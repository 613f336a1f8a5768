"""What the functions for single operations share. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .axes import Atom, Dim
from .graph import Node
from .values import Const, Dims, Final, NotAChainError, Rows, Value

Values = Sequence[Value | None]
"""The inputs of an operation. None is one that is left out."""


@dataclass(slots=True)
class Reading:
    """A file that is being read.

    Attributes:
        opset: version of ONNX's operations in the file.
        notes: for the user.
        states: inputs of the graph that initial states come from.
        lengths: inputs of the graph that have the lengths of sequences.
        steps_through_time: a recurrent layer runs along an axis of the input.
        steps_written: a number of steps that is written into the graph.
        open_reshapes: dimensions without it for the Reshapes that have it, by the names of their outputs.
    """

    opset: int
    notes: list[str] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    lengths: list[str] = field(default_factory=list)
    steps_through_time: bool = False
    steps_written: int | None = None
    open_reshapes: dict[str, list[int]] = field(default_factory=dict)
    _atoms: int = 0

    def note(self, text: str) -> None:
        """Adds a sentence for the user, once."""
        if text not in self.notes:
            self.notes.append(text)

    def atom(self, name: str, size: int | None) -> Atom:
        """A new factor of an axis."""
        self._atoms += 1
        return Atom(f"{name}.{self._atoms}", size)


@dataclass(frozen=True, slots=True)
class Call:
    """One operation with the values of its inputs, as the function that reads it takes it."""

    node: Node
    values: Values
    reading: Reading


def whole_numbers(value: Value | None, what: str) -> list[int]:
    """A constant of integers, as axes and bounds are.

    Raises:
        NotAChainError: it is computed.
    """
    if not isinstance(value, Const):
        raise NotAChainError(f"its {what} are not constant")
    return [int(number) for number in np.ravel(value.array)]


def rows_of(value: Value | None) -> Rows:
    """An input that has rows.

    Raises:
        NotAChainError: it has none.
    """
    if isinstance(value, Rows):
        return value
    if isinstance(value, Final):
        raise NotAChainError("it computes with the last state of a layer")
    raise NotAChainError("it computes with numbers that are no rows")


def dims_of(value: Value | None) -> tuple[Dim, ...]:
    """An input of sizes, as one vector."""
    if isinstance(value, Dims):
        return value.dims
    assert isinstance(value, Const)
    return tuple(int(number) for number in np.ravel(value.array))


def meant(number: float) -> float:
    """The number that was written down, of one that the file has in float32."""
    return float(np.format_float_scientific(np.float32(number), unique=True))
