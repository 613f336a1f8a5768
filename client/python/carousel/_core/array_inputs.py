"""What callers pass in as arrays: anything that NumPy can read without harm."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from carousel._errors import InputDtypeError, InputShapeError


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
