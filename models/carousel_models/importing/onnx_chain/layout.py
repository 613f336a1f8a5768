"""Operations that move, join and separate axes. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .axes import Axes, Dim, reshaped, size_of
from .reading import Call, rows_of, whole_numbers
from .values import Dims, Filled, NotAChainError, Rows, Value


def _axes_of(call: Call) -> list[int] | None:
    """The axes of Squeeze and Unsqueeze: an attribute, and from opset 13 on an input."""
    if "axes" in call.node.attributes:
        return [int(axis) for axis in call.node.attributes["axes"]]
    given = call.values[1] if len(call.values) > 1 else None
    return None if given is None else whole_numbers(given, "axes")


def _moved(rows: Rows, axes: Axes) -> Rows:
    """The same rows with other axes."""
    return replace(rows, axes=axes)


def same(call: Call) -> list[Value]:
    """Operations without effect: Identity, Dropout, and a Cast of what a chain has in one type."""
    (value,) = [value for value in call.values[:1] if value is not None]
    return [value]


def cast(call: Call) -> list[Value]:
    """A Cast. Rows of 16 bits would lose digits that Carousel keeps."""
    import onnx

    (value,) = call.values
    assert value is not None
    to = onnx.TensorProto.DataType.Name(call.node.attribute("to", 0))
    if isinstance(value, Rows) and value.raw and not value.part and "INT" in to:
        return [replace(value, tokens=True)]
    if isinstance(value, Rows) and not value.tokens and value.select is None:
        if "FLOAT" not in to and to != "DOUBLE":
            raise NotAChainError(f"it makes {to.lower()} of rows")
        if to != "FLOAT":
            call.reading.note(
                f"the model computed in {to.lower()}, and Carousel computes in float32"
            )
    elif isinstance(value, Rows) and value.tokens and "INT" not in to:
        raise NotAChainError(f"it makes {to.lower()} of tokens")
    return [value]


def transpose(call: Call) -> list[Value]:
    """A Transpose."""
    (value,) = call.values
    if isinstance(value, Filled):
        return [Filled(value.array.transpose(call.node.attribute("perm", None)))]
    rows = rows_of(value)
    order = call.node.attribute("perm", list(range(len(rows.axes)))[::-1])
    return [_moved(rows, tuple(rows.axes[place] for place in order))]


def squeeze(call: Call) -> list[Value]:
    """A Squeeze: axes of size 1 disappear."""
    value = call.values[0]
    chosen = _axes_of(call)
    if isinstance(value, Dims):
        return [Dims(value.dims, scalar=len(value.dims) == 1)]
    if isinstance(value, Filled):
        gone = range(value.array.ndim) if chosen is None else chosen
        return [Filled(value.array.squeeze(tuple(gone)))]
    rows = rows_of(value)
    count = len(rows.axes)
    if chosen is None:
        places = {n for n, group in enumerate(rows.axes) if size_of(group) == 1}
    else:
        places = {axis % count for axis in chosen}
    if any(size_of(rows.axes[place]) != 1 for place in places):
        raise NotAChainError("it takes away an axis whose size is not 1")
    return [_moved(rows, tuple(g for n, g in enumerate(rows.axes) if n not in places))]


def unsqueeze(call: Call) -> list[Value]:
    """An Unsqueeze: new axes of size 1."""
    value = call.values[0]
    chosen = _axes_of(call)
    if isinstance(value, Dims):
        return [replace(value, scalar=False)]
    if chosen is None:
        raise NotAChainError("its axes are missing")
    if isinstance(value, Filled):
        return [Filled(np.expand_dims(value.array, tuple(chosen)))]
    rows = rows_of(value)
    axes = list(rows.axes)
    for place in sorted(axis % (len(axes) + len(chosen)) for axis in chosen):
        axes.insert(place, ())
    return [_moved(rows, tuple(axes))]


def reshape(call: Call) -> list[Value]:
    """A Reshape that joins axes, separates joined ones, or adds and removes those of size 1."""
    value, shape = call.values
    if isinstance(value, Dims):
        wanted = whole_numbers(shape, "dimensions")
        return [replace(value, scalar=not wanted)]
    rows = rows_of(value)
    if isinstance(shape, Dims):
        target: Sequence[Dim] = shape.dims
    else:
        target = whole_numbers(shape, "dimensions")
    zero_copies = not call.node.attribute("allowzero", 0)
    axes = reshaped(rows.axes, target, zero_copies=zero_copies)
    if axes is None:
        raise NotAChainError(f"it makes {list(target)} of rows, which takes apart what is one axis")
    _note_steps(call, rows, target, axes)
    return [_moved(rows, axes)]


def _note_steps(call: Call, rows: Rows, target: Sequence[Dim], axes: Axes) -> None:
    """Notes where a Reshape has a number for the axis of time, as exporters write it."""
    numbers = [dim for dim in target if isinstance(dim, int)]
    for place, (dim, group) in enumerate(zip(target, axes, strict=True)):
        if isinstance(dim, int) and dim > 1 and rows.time is not None and group == (rows.time,):
            call.reading.steps_written = dim
            if rows.axes[place : place + 1] == (group,) and len(numbers) == len(target):
                numbers[place] = 0
                call.reading.open_reshapes[call.node.outputs[0]] = numbers


def flatten(call: Call) -> list[Value]:
    """A Flatten to two axes."""
    rows = rows_of(call.values[0])
    axis = call.node.attribute("axis", 1)
    axis = axis + len(rows.axes) if axis < 0 else axis
    joined = [tuple(a for g in part for a in g) for part in (rows.axes[:axis], rows.axes[axis:])]
    return [_moved(rows, tuple(joined))]
