"""Operations on the sizes of tensors, and arrays whose sizes follow from an input. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from . import fusing
from .axes import Dim, dim_of, product
from .reading import Call, dims_of, rows_of
from .values import Above, Const, Dims, Filled, NotAChainError, Rows, Value


def shape(call: Call) -> list[Value]:
    """The sizes of a tensor."""
    value = call.values[0]
    if isinstance(value, Dims) and not value.scalar:
        return [Const(np.array([len(value.dims)]))]
    rows = rows_of(value)
    dims = [dim_of(group) for group in rows.axes]
    return [Dims(tuple(dims[call.node.attribute("start", 0) : call.node.attribute("end", None)]))]


def constant_of_shape(call: Call) -> list[Value]:
    """An array of one number, whose sizes follow from the input."""
    (sizes,) = call.values
    import onnx

    given = call.node.attribute("value", None)
    number = 0.0 if given is None else float(np.ravel(onnx.numpy_helper.to_array(given))[0])
    if not isinstance(sizes, Dims):
        raise NotAChainError("its sizes are not those of an input")
    return [Filled(np.full((1,) * len(sizes.dims), number, np.float32))]


def expand(call: Call) -> list[Value]:
    """An array that is repeated, as for each sequence of a batch."""
    value, sizes = call.values
    if isinstance(value, Rows) and value.raw:
        return [value]
    if not isinstance(value, Const | Filled) or not isinstance(sizes, Dims | Const):
        raise NotAChainError("it repeats rows")
    array = value.array
    rank = max(array.ndim, len(dims_of(sizes)))
    return [Filled(array.reshape((1,) * (rank - array.ndim) + array.shape))]


def of_sizes(compute: Callable[[Sequence[Dim]], Dim]) -> Callable[..., list[Value]]:
    """An operation on sizes."""

    def run(call: Call) -> list[Value]:
        if not all(isinstance(value, Dims | Const) for value in call.values):
            raise NotAChainError("it computes with sizes and other numbers")
        groups = [dims_of(value) for value in call.values]
        scalar = all(v.scalar if isinstance(v, Dims) else not v.array.ndim for v in call.values)  # type: ignore[union-attr]
        length = max(map(len, groups))
        columns = zip(*(g * (length if len(g) == 1 else 1) for g in groups), strict=True)
        try:
            return [Dims(tuple(compute(column) for column in columns), scalar=scalar)]
        except ValueError as error:
            raise NotAChainError(str(error)) from error

    return run


multiplied_sizes = of_sizes(product)


def equal_sizes(call: Call) -> list[Value]:
    """A comparison of sizes. Open sizes differ from numbers, as a batch is no constant."""
    if not all(isinstance(value, Dims | Const) for value in call.values):
        raise NotAChainError("it compares numbers of rows")
    one, two = (dims_of(value) for value in call.values)
    found = np.array([a == b for a, b in zip(one, two, strict=False)])
    return [Const(found[0] if len(found) == 1 else found)]


def where(call: Call) -> list[Value]:
    """A choice between sizes, or a softplus that is linear for large numbers as torch's is."""
    condition, one, two = call.values
    if isinstance(condition, Above):
        return [fusing.softplus(condition, one, two)]
    if not isinstance(condition, Const) or not all(
        isinstance(value, Dims | Const) for value in (one, two)
    ):
        raise NotAChainError("it chooses between rows")
    chosen = np.ravel(condition.array)
    columns = zip(chosen, *map(dims_of, (one, two)), strict=True)
    return [Dims(tuple(first if choice else second for choice, first, second in columns))]
