"""Concat: of sizes, of last states, and of the rows of two directions. No torch."""

from __future__ import annotations

from dataclasses import replace

from carousel_models.importing.ops import Recur

from .reading import Call, Reading, dims_of
from .values import NO_STEP, Const, Dims, Final, NotAChainError, Rows, Value, is_prefix


def concat(call: Call) -> list[Value]:
    """A Concat of sizes, of last states, or of the rows of two directions."""
    if all(isinstance(value, Dims | Const) for value in call.values):
        return [Dims(tuple(dim for value in call.values for dim in dims_of(value)))]
    axis = call.node.attribute("axis", 0)
    if (
        all(isinstance(v, Final) or (isinstance(v, Rows) and v.final) for v in call.values)
        and not axis
    ):
        parts = [p for v in call.values for p in (v.parts if isinstance(v, Final) else [v])]
        return [Final(tuple(part for part in parts if isinstance(part, Rows)))]
    rows = [value for value in call.values if isinstance(value, Rows)]
    if len(rows) == len(call.values) == 2:
        return [_both_directions(rows[0], rows[1], axis, call.reading)]
    raise NotAChainError("it joins rows of several places")


def _both_directions(one: Rows, two: Rows, axis: int, reading: Reading) -> Rows:
    """The rows of a layer for which the file has each direction by itself."""
    ends = one.ops[-1:] + two.ops[-1:]
    forward, backward = ends if len(ends) == 2 else (None, None)
    if (
        not isinstance(forward, Recur)
        or not isinstance(backward, Recur)
        or len(one.ops) != len(two.ops)
        or not is_prefix(one.ops[:-1], two.ops)
        or (forward.backward, backward.backward) != (False, True)
        or len(forward.directions) == 2
    ):
        raise NotAChainError("it joins rows of several places, which are not two directions")
    if one.steps != "all" or two.steps != "all" or one.turned != two.turned:
        raise NotAChainError(NO_STEP)
    equal = forward.cell == backward.cell and forward.hidden == backward.hidden
    if not equal or forward.initial or backward.initial:
        raise NotAChainError(
            "its two directions differ in their cells or sizes, or begin with numbers"
        )
    halves = len(one.axes) - 1 if one.axes[axis] == one.row else axis % len(one.axes)
    if len(one.axes) != len(two.axes) or one.axes[halves] not in ((), one.row):
        raise NotAChainError("it joins the rows of two directions along another axis")
    atom = reading.atom("directions", 2)
    row = (atom, *one.row)
    group = row if one.axes[halves] == one.row else (atom,)
    axes = tuple(group if n == halves else g for n, g in enumerate(one.axes))
    recur = Recur(forward.cell, (forward.directions[0], backward.directions[0]))
    return replace(one.with_ops((*one.ops[:-1], recur)), axes=axes, row=row)
