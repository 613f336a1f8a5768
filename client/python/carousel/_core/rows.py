"""A model's rows: what callers pass in, as wire bytes; what comes back, as arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from carousel._error_bases import ServerTooOldError
from carousel._errors import (
    InputDtypeError,
    InputShapeError,
    SequenceTooLongError,
    StateInvalidError,
    TextUnavailableError,
)
from carousel_protos.states import encode_state
from carousel_protos.tensors import RowCodec
from carousel_protos.v1 import carousel_pb2 as pb

from .arguments import unicode_of
from .array_inputs import array_of, check_scale

Array = npt.NDArray[Any]


class ModelRows:
    """Encodes the inputs of one model and decodes its outputs."""

    def __init__(self, model: pb.Model) -> None:
        self.name = model.name
        self.tokenizer = model.tokenizer
        self.inputs = RowCodec.of([model.input])
        self.outputs = RowCodec.of(model.outputs)
        self.signal = model.signal if model.HasField("signal") else None
        self._resets = model.resets
        self._states = {spec.name: spec for spec in model.states}

    def check_resets(self, used: object = True) -> None:
        """Raises ServerTooOldError if resets or an initial state are `used`, which the server ignores."""
        if used and not self._resets:
            raise ServerTooOldError(
                f"the server of model {self.name} is from before resets and initial states, and would "
                "ignore them"
            )

    def encode(self, rows: Any, *leading: int | None) -> npt.NDArray[np.uint8]:
        """Inputs as uint8[*leading, input row bytes]. A leading axis of None may have any length.

        `rows` is array-like of shape [*leading, *row shape]. With one leading axis, bytes are the
        token ids of a model with a tokenizer of bytes, and so is the UTF-8 of a text.

        Raises:
            InputShapeError, InputDtypeError, SequenceTooLongError, TextUnavailableError.
        """
        if isinstance(rows, str | bytes | bytearray):
            rows = self._token_ids(rows)
        array = array_of(rows, nested=len(leading))
        wanted = (*leading, *self.inputs.row_shape)
        fits = len(wanted) == array.ndim and all(
            want is None or want == size for want, size in zip(wanted, array.shape, strict=True)
        )
        if not fits:
            text = ", ".join("any" if size is None else str(size) for size in wanted)
            raise InputShapeError(
                f"model {self.name} takes an array of shape [{text}], not {list(array.shape)}"
            )
        if array.size == 0:
            raise SequenceTooLongError("the input has no rows")
        if self.inputs.dtype.base.kind == "f":
            check_scale(array)
        try:
            with np.errstate(over="ignore"):  # becomes infinite, and is refused as that
                data = self.inputs.encode(array)
        except TypeError as error:
            raise InputDtypeError(f"model {self.name}: {error}") from None
        return np.frombuffer(data, np.uint8).reshape(*array.shape[: len(leading)], -1)

    def encode_block(
        self, rows: list[Any]
    ) -> tuple[npt.NDArray[np.uint8] | None, Exception | None]:
        """A block of a stream, up to the first row that is refused, and what that is refused with.

        The block is uint8[n, input row bytes], or None without a good row; the error None if all are good.
        """
        try:
            return self.encode(rows, None), None
        except Exception as error:  # noqa: BLE001 - the rows before it are to be sent first
            refused: Exception = error
        good = 0
        try:
            for row in rows:
                self.encode([row], None)
                good += 1
        except Exception as error:  # noqa: BLE001 - likewise
            return (self.encode(rows[:good], None) if good else None), error
        return None, refused  # each is good alone, but they do not go together

    def encode_states(self, values: Mapping[str, Any]) -> list[pb.StateTensor]:
        """States by name, as the wire has them.

        Raises:
            StateInvalidError: the model has no such state, or it is of another shape or type.
            InputDtypeError, InputShapeError: a value is no array.
        """
        return [self._encode_state(name, value) for name, value in values.items()]

    def _encode_state(self, name: str, value: Any) -> pb.StateTensor:
        if name not in self._states:
            known = ", ".join(self._states) or "none"
            raise StateInvalidError(f"model {self.name} has no state {name!r}; it has {known}")
        spec = self._states[name]
        array = array_of(value, nested=len(spec.shape))
        try:
            return encode_state(spec, array)
        except (ValueError, TypeError) as error:
            raise StateInvalidError(f"model {self.name}: {error}") from None

    def decode(self, data: bytes, *leading: int) -> Array:
        """Output rows of shape [*leading, *row shape]; a structured array if a row has several fields.

        The array is read-only: it is a view of the received message.
        """
        return self.outputs.decode(data, *leading)

    def alike(self, tolerance: float | None) -> Callable[[Array, Array], bool] | None:
        """Tells repeated output rows, uint8[n, row bytes], from others; None: only the bits count.

        Floats may differ by `tolerance`; all else must be equal.
        """
        if tolerance is None:
            return None

        def near(before: Array, again: Array) -> bool:
            a, b = (self.decode(rows.tobytes(), len(rows)) for rows in (before, again))
            pairs = [(a[name], b[name]) for name in a.dtype.names] if a.dtype.names else [(a, b)]
            return all(
                np.allclose(x, y, rtol=0.0, atol=tolerance, equal_nan=True)
                if x.dtype.kind == "f"
                else np.array_equal(x, y)
                for x, y in pairs
            )

        return near

    def _token_ids(self, text: str | bytes | bytearray) -> Array:
        if self.tokenizer != "bytes":
            raise TextUnavailableError(
                f"model {self.name} has no tokenizer of bytes to make steps of text with"
            )
        raw = unicode_of(text).encode() if isinstance(text, str) else bytes(text)
        return np.frombuffer(raw, np.uint8).astype(np.int32)
