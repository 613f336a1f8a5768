"""Widths of the rows between operations, so that an array of another size is named. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_never

from carousel_models.errors import PackageError

from .ops import Activate, Linear, Norm, Op, PRelu, Recur, Scale, Skip, ToOutput

Widths = tuple[int | None, int | None]
"""Width of the rows that enter and of those that leave. None is any, and the same."""


def check_widths(parts: Mapping[str, Sequence[Op]], enters: int | None) -> None:
    """Checks that each operation fits the one before.

    Args:
        parts: the operations by their place in the user's file.
        enters: width of the first rows, if it is known.

    Raises:
        PackageError: one does not fit. The message has its place.
    """
    width = enters
    for place, ops in parts.items():
        width = _leaves(ops, place, width)


def _leaves(ops: Sequence[Op], place: str, width: int | None) -> int | None:
    for op in ops:
        if isinstance(op, Skip):
            found = _leaves(op.ops, place, width)
            entered = _entered(op.ops) if width is None else width
            if found != entered:
                raise PackageError(
                    f"{place} adds its input of {entered} to rows of {found}; leave out the residual"
                )
            width = found
            continue
        wanted, leaves = _widths(op)
        if None not in (wanted, width) and wanted != width:
            raise PackageError(
                f"{place} takes rows of {wanted}, and the part before gives rows of {width}; check the "
                "arrays of both, and whether one is to be transposed"
            )
        width = width if leaves is None else leaves
    return width


def _entered(ops: Sequence[Op]) -> int | None:
    """Width of the rows that operations take, from the first one that says it."""
    return next((wanted for wanted, _ in map(_widths, ops) if wanted is not None), None)


def _widths(op: Op) -> Widths:
    match op:
        case Linear(weight=weight):
            return weight.shape[1], len(weight)
        case Scale(factor=factor):
            return len(factor), len(factor)
        case PRelu(slopes=slopes):
            return (None, None) if len(slopes) == 1 else (len(slopes), len(slopes))
        case Norm(weight=weight):
            return (None, None) if weight is None else (len(weight), len(weight))
        case Recur(directions=directions):
            first = directions[0]
            return first.weight_ih.shape[1], len(directions) * first.weight_hh.shape[1]
        case Activate() | ToOutput() | Skip():
            return None, None
        case unknown:
            assert_never(unknown)
