"""States on the wire: tensors of many types to NumPy arrays and back, for clients and servers alike.

NumPy has no bfloat16. Such a state is shown as float32, which holds each of its numbers. An array for it is
rounded to the nearest number, and of two equally near ones to the even one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from carousel_protos.v1 import carousel_pb2 as pb

Array = npt.NDArray[Any]


class StateType(NamedTuple):
    """A type of states.

    Attributes:
        wire: its number in the protocol.
        bits: NumPy type string of the raw bytes.
        shown: NumPy type string of the arrays that users see.
    """

    wire: pb.DataType.ValueType
    bits: str
    shown: str

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return np.dtype(self.bits).itemsize


_BFLOAT16 = StateType(pb.DATA_TYPE_BFLOAT16, "<u2", "<f4")

STATE_TYPES: dict[str, StateType] = {
    "float16": StateType(pb.DATA_TYPE_FLOAT16, "<f2", "<f2"),
    "float32": StateType(pb.DATA_TYPE_FLOAT32, "<f4", "<f4"),
    "float64": StateType(pb.DATA_TYPE_FLOAT64, "<f8", "<f8"),
    "bfloat16": _BFLOAT16,
    "int32": StateType(pb.DATA_TYPE_INT32, "<i4", "<i4"),
    "int64": StateType(pb.DATA_TYPE_INT64, "<i8", "<i8"),
    "bool": StateType(pb.DATA_TYPE_BOOL, "|b1", "|b1"),
    "complex64": StateType(pb.DATA_TYPE_COMPLEX64, "<c8", "<c8"),
}
"""One entry for each type that a manifest can declare."""

_NAMES = {kind.wire: name for name, kind in STATE_TYPES.items()}


def type_name(spec: pb.TensorSpec) -> str:
    """The name of a state's type.

    Raises:
        ValueError: this version does not know it.
    """
    if spec.dtype not in _NAMES:
        raise ValueError(f"state {spec.name!r} has the unknown element type {spec.dtype}")
    return _NAMES[spec.dtype]


def encode_state(spec: pb.TensorSpec, value: npt.ArrayLike) -> pb.StateTensor:
    """The tensor of a state.

    Args:
        spec: the state, as the model describes it.
        value: numbers of its shape. They are converted within a kind, from integers to floats, and from
            floats to complex numbers.

    Raises:
        ValueError: the shape is another one, or the type is unknown.
        TypeError: the numbers cannot become the state's type without harm.
    """
    kind, array = STATE_TYPES[type_name(spec)], np.asarray(value)
    if array.shape != tuple(spec.shape):
        raise ValueError(
            f"state {spec.name!r} has shape {list(spec.shape)}, not {list(array.shape)}"
        )
    found = _converted(array, np.dtype(kind.shown))
    if found is None:
        raise TypeError(
            f"state {spec.name!r} is {type_name(spec)}, and cannot hold this {array.dtype}"
        )
    data = _rounded(found) if kind is _BFLOAT16 else found
    return pb.StateTensor(spec=spec, data=data.tobytes())


def decode_state(tensor: pb.StateTensor) -> Array:
    """The numbers of a state, as a read-only array of its shape.

    Raises:
        ValueError: there are not as many bytes as the type and the shape say, or the type is unknown.
    """
    spec = tensor.spec
    kind = STATE_TYPES[type_name(spec)]
    expected = math.prod(spec.shape) * kind.item_bytes
    if len(tensor.data) != expected:
        raise ValueError(f"state {spec.name!r} has {len(tensor.data)} bytes, not {expected}")
    array = np.frombuffer(tensor.data, kind.bits)
    if kind is _BFLOAT16:
        array = (array.astype("<u4") << 16).view("<f4")
    return array.reshape(tuple(spec.shape))


def _converted(array: Array, dtype: np.dtype[Any]) -> Array | None:
    """An array in another type, or None if more than the rounding of floats would be lost."""
    whole = dtype.kind in "bi"
    if array.dtype.kind not in ("biu" if whole else "biufc"):
        return None
    if not whole and not np.can_cast(array.dtype, dtype, "same_kind"):
        return None
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        found = array.astype(dtype)
    return found if not whole or (found == array).all() else None


def _rounded(numbers: Array) -> Array:
    """float32 as the bits of bfloat16."""
    bits = numbers.view("<u4")
    upper = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(numbers), 0x7FC0, upper).astype("<u2")
