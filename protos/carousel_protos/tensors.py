"""Rows on the wire: bytes to NumPy arrays and back, for clients and servers alike.

A row is its fields one after the other, each little-endian and in row-major order. A message carries
rows as one `bytes` field, because a `repeated float` has no fast way into an array.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from carousel_protos.v1 import carousel_pb2 as pb

Array = npt.NDArray[Any]

DATA_TYPES: dict[str, pb.DataType.ValueType] = {
    "<f4": pb.DATA_TYPE_FLOAT32,
    "<i4": pb.DATA_TYPE_INT32,
    "<i2": pb.DATA_TYPE_INT16,
}
"""The `carousel.v1.DataType` of each NumPy type string that a row can hold."""

WIRE_DTYPES: dict[int, str] = {type_: name for name, type_ in DATA_TYPES.items()}
"""The NumPy type string of each of them."""


@dataclass(frozen=True, slots=True)
class RowCodec:
    """Turns rows of one layout into bytes and back.

    A layout of one field gives plain arrays of that field's dtype. A layout of several fields gives
    structured arrays, whose fields are read by name: `rows["values"]` has shape [..., *field shape].

    Attributes:
        dtype: of one row; a structured dtype if there are several fields.
    """

    dtype: np.dtype[Any]

    @classmethod
    def of(cls, specs: Iterable[pb.TensorSpec]) -> RowCodec:
        """The codec of the rows that `specs` describe, in their order.

        Raises:
            ValueError: no field, two fields of one name, or an element type unknown to this version.
        """
        fields = [(spec.name, _wire_dtype(spec), tuple(spec.shape)) for spec in specs]
        if not fields:
            raise ValueError("a row needs at least one field")
        if len(fields) == 1:
            _, dtype, shape = fields[0]
            return cls(np.dtype((dtype, shape)))
        return cls(np.dtype(fields))

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row of a single field; () for several fields and for scalars."""
        return self.dtype.shape

    def encode(self, rows: npt.ArrayLike) -> bytes:
        """Bytes of rows of shape [..., *row_shape].

        Converts within a kind (float64 to float32) and from integers to floats, never from floats to
        integers: a fraction that vanishes would be a silent error.

        Raises:
            ValueError: the last axes are not the row's.
            TypeError: the elements cannot become the row's type without harm.
        """
        array = np.asarray(rows)
        base, shape = self.dtype.base, self.row_shape
        if shape and array.shape[-len(shape) :] != shape:
            raise ValueError(f"a row has shape {shape}, but the array has shape {array.shape}")
        if array.dtype != base:
            if base.kind == "i":
                _check_integers(array, base)
            elif not np.can_cast(array.dtype, base, "same_kind"):
                raise TypeError(f"cannot send {array.dtype} as {base}: convert it first")
            array = array.astype(base)
        return array.tobytes()

    def decode(self, data: bytes | memoryview, *leading: int) -> Array:
        """A read-only view of `data` with shape [*leading, *row_shape]; one of `leading` may be -1.

        Raises:
            ValueError: the size of `data` is no such number of rows.
        """
        if len(data) % self.row_bytes:
            raise ValueError(f"{len(data)} bytes are no whole number of {self.row_bytes}-byte rows")
        flat = np.frombuffer(data, dtype=self.dtype)
        return flat.reshape(*leading, *self.row_shape)


def _wire_dtype(spec: pb.TensorSpec) -> str:
    try:
        return WIRE_DTYPES[spec.dtype]
    except KeyError:
        raise ValueError(f"field {spec.name!r} has unknown element type {spec.dtype}") from None


def _check_integers(array: Array, base: np.dtype[Any]) -> None:
    if array.dtype.kind not in "iu":
        raise TypeError(f"cannot send {array.dtype} as {base}: tokens and indices are integers")
    bounds = np.iinfo(base)
    if array.size and (array.min() < bounds.min or array.max() > bounds.max):
        raise TypeError(f"an integer is outside {base}")
