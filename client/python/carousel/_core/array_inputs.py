"""What callers pass in as arrays: anything that NumPy can read without harm."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from carousel._errors import InputDtypeError, InputShapeError

_PLAIN_INTEGER_BYTES = 4


def array_of(values: Any, nested: int = 0) -> npt.NDArray[Any]:
    """The values as an array: from numbers, lists, arrays, or tensors of another library.

    Args:
        values: array-like.
        nested: how many levels of lists may have masked arrays in them.

    Raises:
        InputDtypeError: they are masked, or another library refuses to hand them out.
        InputShapeError: rows of different lengths.
    """
    if _is_masked(values, nested):
        raise InputDtypeError(
            "masked arrays are refused, because a masked element has no value to send: "
            "fill or drop those elements first, as with array.filled(0)"
        )
    try:
        return np.asarray(values)
    except MemoryError:
        raise
    except ValueError as error:  # rows of different lengths
        raise InputShapeError(str(error)) from None
    except Exception as error:  # noqa: BLE001 - the conversion is the other library's code
        raise InputDtypeError(
            f"{_kind_of(values)} cannot become a NumPy array: {error}; for a PyTorch tensor pass "
            "x.detach().float().cpu().numpy()"
        ) from None


def check_scale(array: npt.NDArray[Any]) -> None:
    """Refuses integers of 8 and 16 bits as rows of floats: they are samples of sound, images or sensors.

    A model is trained on numbers that came from samples by a scale, and only the caller knows it. Wider
    integers are what Python's and NumPy's own become, so they are taken as the numbers that they are.

    Raises:
        InputDtypeError.
    """
    if array.dtype.kind in "iu" and array.dtype.itemsize < _PLAIN_INTEGER_BYTES:
        most = np.iinfo(array.dtype).max + 1
        raise InputDtypeError(
            f"{array.dtype} rows are samples, and the model takes float32: divide by the scale that it "
            f"was trained with, as with rows.astype(numpy.float32) / {most}; if there is none, pass "
            "rows.astype(numpy.float32)"
        )


def _is_masked(values: Any, nested: int) -> bool:
    if isinstance(values, np.ma.MaskedArray):
        return True
    if nested == 0 or not isinstance(values, list | tuple):
        return False
    return any(_is_masked(value, nested - 1) for value in values)


def _kind_of(values: Any) -> str:
    while isinstance(values, list | tuple) and values:
        values = values[0]
    return f"{type(values).__module__}.{type(values).__qualname__}"
