"""Operations that take parts of a tensor: embeddings, single steps, the states of one layer. No torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .axes import size_of
from .graph import Node
from .reading import Call, Reading, Values, rows_of, whole_numbers
from .values import Const, Dims, Filled, Final, NotAChainError, Rows, Value


def gather(call: Call) -> list[Value]:
    """A look-up in an embedding, one step of a sequence, or one size."""
    value, index = call.values
    axis = call.node.attribute("axis", 0)
    if isinstance(value, Const) and isinstance(index, Rows):
        return [_look_up(value, index, axis, call.reading)]
    if not isinstance(index, Const):
        raise NotAChainError("it takes rows by indices that are not constant")
    if isinstance(value, Dims):
        places = np.ravel(index.array)
        return [Dims(tuple(value.dims[place] for place in places), scalar=index.array.ndim == 0)]
    if index.array.size != 1:
        raise NotAChainError("it takes several places of an axis")
    place, keep = int(np.ravel(index.array)[0]), index.array.ndim > 0
    if isinstance(value, Filled):
        return [_of_filled(value, axis, place, keep=keep)]
    if isinstance(value, Final):
        return [_of_final(value, axis, place, keep=keep)]
    return [_one_place(rows_of(value), axis, place, keep=keep)]


def _look_up(table: Const, tokens: Rows, axis: int, reading: Reading) -> Rows:
    if not tokens.tokens or table.array.ndim != 2 or axis != 0 or tokens.part:
        raise NotAChainError("it looks up a table that is no embedding of tokens")
    atom = reading.atom("embedding", table.array.shape[1])
    axes = (*tokens.axes, (atom,))
    return replace(tokens, axes=axes, row=(atom,), tokens=False, embedding=table.array)


def one_hot(call: Call) -> list[Value]:
    """Tokens as rows with one 1, which is an embedding."""
    tokens, depth, levels = call.values
    if not isinstance(depth, Const) or not isinstance(levels, Const):
        raise NotAChainError("its size is not constant")
    rows = rows_of(tokens)
    if call.node.attribute("axis", -1) not in (-1, len(rows.axes)):
        raise NotAChainError("its new axis is not the last one")
    size = int(np.ravel(depth.array)[0])
    off, on = (float(level) for level in levels.array)
    table = np.full((size, size), off, np.float32)
    np.fill_diagonal(table, on)
    return [_look_up(Const(table), rows, 0, call.reading)]


def slice_(call: Call) -> list[Value]:
    """A Slice of one place of an axis, or of all of them."""
    value = call.values[0]
    bounds = _bounds(call.node, call.values)
    if isinstance(value, Dims):
        ((_, first, end, step),) = bounds
        return [Dims(value.dims[first:end:step])]
    for axis, first, end, step in bounds:
        if (first, step) == (0, 1) and end >= _LARGE:
            continue
        value = _sliced(value, axis, first, end, step)
    assert value is not None
    return [value]


_LARGE = 1 << 31
"""Exporters write at least this number less one for an open end."""


def _bounds(node: Node, values: Values) -> list[tuple[int, int, int, int]]:
    """(axis, start, end, step) of each axis. Before opset 10 they are attributes."""
    if "starts" in node.attributes:
        starts, ends = node.attributes["starts"], node.attributes["ends"]
        axes, steps = node.attribute("axes", list(range(len(starts)))), [1] * len(starts)
    else:
        given = [None if v is None else whole_numbers(v, "bounds") for v in values[1:]]
        starts, ends = given[0] or [], given[1] or []
        axes = (given[2] if len(given) > 2 else None) or list(range(len(starts)))
        steps = (given[3] if len(given) > 3 else None) or [1] * len(starts)
    ends = [_LARGE if end >= _LARGE - 1 else max(end, -_LARGE) for end in ends]
    return list(zip(axes, starts, ends, steps, strict=True))


def _sliced(value: Value | None, axis: int, first: int, end: int, step: int) -> Value:
    if isinstance(value, Filled):
        if value.array.shape[axis] == 1:
            return value  # it is repeated along this axis
        index = [slice(None)] * value.array.ndim
        index[axis] = slice(first, end, step)
        return Filled(value.array[tuple(index)])
    last = first == -1 and end >= _LARGE
    if isinstance(value, Final) and step == 1 and (last or end == first + 1):
        return _of_final(value, axis, first, keep=True)
    rows = rows_of(value)
    size = size_of(rows.axes[axis])
    if size is not None and range(size)[first:end:step] == range(size):
        return rows
    if step == 1 and (last or end == first + 1):
        return _one_place(rows, axis, first, keep=True)
    if step == -1 and first == -1 and end < -_LARGE + 1:
        return _turned(rows, axis)
    if rows.raw:
        return replace(_without(rows, axis, keep=True), part=True)
    raise NotAChainError("it takes a part of the rows, or some of the steps")


def split(call: Call) -> list[Value]:
    """A Split of initial states, or of last ones, into those of single layers."""
    count = len(call.node.outputs)
    axis = call.node.attribute("axis", 0)
    value = call.values[0]
    if isinstance(value, Filled) and value.array.shape[axis] == 1:
        return [value] * count
    rows = rows_of(value)
    if not rows.raw:
        raise NotAChainError("it divides rows")
    return [replace(_without(rows, axis, keep=True), part=True)] * count


def _of_filled(value: Filled, axis: int, place: int, *, keep: bool) -> Filled:
    array = value.array
    place = 0 if array.shape[axis] == 1 else place
    return Filled(np.take(array, [place] if keep else place, axis=axis))


def _of_final(value: Final, axis: int, place: int, *, keep: bool) -> Rows | Final:
    """The last state of one of several layers."""
    parts = value.parts
    if axis or not parts or any(part.axes[0] for part in parts):
        return Final()
    return _without(parts[place], 0, keep=keep)


def _turned(rows: Rows, axis: int) -> Rows:
    """The rows in the opposite order of an axis."""
    group = rows.axes[axis]
    if len(group) != 1 or rows.turned not in (None, group[0]) or group == rows.row:
        raise NotAChainError("it turns round another axis than that of time")
    return replace(rows, turned=group[0] if rows.turned is None else None)


def _one_place(rows: Rows, axis: int, place: int, *, keep: bool) -> Rows:
    """One place of an axis: the last or the first step, or a part of an input."""
    axis %= len(rows.axes)
    group = rows.axes[axis]
    size = size_of(group)
    found = _without(rows, axis, keep=keep)
    if size is not None:
        place %= size
    if group == rows.row and rows.row and not rows.raw:
        raise NotAChainError("it takes a part of the rows")
    found = replace(found, piece=(rows, axis, place))
    if rows.time is not None and group == (rows.time,) and rows.steps == "all":
        last = place == (-1 if size is None else size - 1)
        if last or place == 0:
            return replace(
                found, steps="last" if last != bool(rows.turned) else "first", turned=None
            )
        return replace(found, part=True)
    return found if size == 1 else replace(found, part=True)


def _without(rows: Rows, axis: int, *, keep: bool) -> Rows:
    """The rows without an axis. `keep`: with size 1 instead."""
    place = axis % len(rows.axes)
    groups = [((),) if keep and n == place else (g,) for n, g in enumerate(rows.axes)]
    if not keep:
        del groups[place]
    return replace(rows, axes=tuple(group for one in groups for group in one))
