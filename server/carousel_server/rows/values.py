"""Which input values a model takes: finite features, tokens of its vocabulary."""

from __future__ import annotations

import math

import numpy as np

from carousel_server.core.errors import CarouselError
from carousel_server.core.types import ModelView


def valid_rows(model: ModelView, inputs: np.ndarray) -> np.ndarray:
    """Which of n rows hold valid values only; bool[n]. `inputs` is uint8[n, …] of whole input rows."""
    values = inputs.reshape(len(inputs), math.prod(inputs.shape[1:])).view(model.input.dtype)
    valid = (values >= 0) & (values < model.vocabulary) if model.vocabulary else np.isfinite(values)
    return np.asarray(valid.all(axis=1))


def invalid_value(model: ModelView, where: str, seq: int = 0) -> CarouselError:
    """The error for a value that the model does not take; `where` names the step."""
    if model.vocabulary:
        message = f"{where} has a token outside 0 … {model.vocabulary - 1}"
        return CarouselError("UNKNOWN_TOKEN", message, field="inputs", seq=seq)
    message = f"{where} has a NaN or an infinity"
    return CarouselError("INPUT_NOT_FINITE", message, field="inputs", seq=seq)
