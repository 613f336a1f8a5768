"""Rows as JSON to the bytes of the protocol, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from carousel_server.core.errors import CarouselError
from carousel_server.core.types import ModelView, TensorField
from carousel_server.wire.errors import invalid
from carousel_server.wire.fields import shape_error

_TYPES = {"<f4": "float32", "<i4": "int32", "<i2": "int16"}


def type_name(field: TensorField) -> str:
    """The element type of a field as a word."""
    return _TYPES[field.dtype]


def rows_of(model: ModelView, inputs: Sequence[Any]) -> bytes:
    """Input rows from nested lists of shape [steps, *row].

    Numbers that are no numbers pass, since an engine refuses them by name.

    Raises:
        CarouselError: INPUT_SHAPE, INPUT_DTYPE or FIELD_INVALID.
    """
    row = model.input
    try:
        array = np.asarray(inputs)
    except ValueError:  # the lists have different lengths
        raise shape_error(model, "the rows have different shapes") from None
    except OverflowError:
        raise invalid("inputs", "a number is too large") from None
    if array.size and array.dtype.kind not in "iuf":
        raise invalid("inputs", "must be numbers")
    if array.shape[1:] != row.shape and array.size:
        raise shape_error(model, f"the inputs have shape {list(array.shape)}")
    kind = np.dtype(row.dtype)
    if kind.kind == "i" and array.size:
        _check_integers(model, array)
    with np.errstate(over="ignore"):
        return array.astype(kind).tobytes()


def _check_integers(model: ModelView, array: np.ndarray[Any, Any]) -> None:
    if array.dtype.kind == "f":
        raise CarouselError(
            "INPUT_DTYPE",
            f"model {model.name!r} takes {type_name(model.input)}, not numbers with a fraction",
            metadata={"model": model.name, "expected": model.input.dtype},
            field="inputs",
        )
    bounds = np.iinfo(np.dtype(model.input.dtype))
    if array.min() < bounds.min or array.max() > bounds.max:
        if model.vocabulary:
            raise CarouselError(
                "UNKNOWN_TOKEN", "a token is outside the model's vocabulary", field="inputs"
            )
        raise invalid("inputs", f"must each be from {bounds.min} to {bounds.max}")


def fields_of(model: ModelView, outputs: bytes) -> dict[str, Any]:
    """Output rows as nested lists of shape [steps, *field] by the name of the field."""
    kind = np.dtype([(field.name, field.dtype, field.shape) for field in model.outputs])
    rows = np.frombuffer(outputs, kind)
    return {field.name: rows[field.name].tolist() for field in model.outputs}
