"""A signal in chunks of any size, as the rows of a model that takes frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from carousel._errors import InputDtypeError, InputShapeError

from .array_inputs import array_of
from .rows import Array, ModelRows

FULL_SCALE = 1 << 15
"""The number of a sample of int16 that stands for 1.0."""


class Samples:
    """Cuts chunks into rows of `hop` samples, and outputs into as many samples as came in.

    A chunk is an array of samples of one channel, or their bytes in the model's own type. Floats from −1 to 1
    stand for int16, and the other way round, where the model takes the other type. The samples after the
    last whole row wait for the next chunk. A sample's bytes may be in two chunks.

    Raises:
        InputShapeError: the model does not take frames.
    """

    def __init__(self, model: ModelRows) -> None:
        if model.signal is None:
            raise InputShapeError(
                f"model {model.name} does not take frames of a signal; give its rows to stream()"
            )
        self._model = model
        self._signal = model.signal
        self._dtype = model.inputs.dtype.base
        self._waiting = np.empty(0, self._dtype)
        self._odd = b""
        self._came = self._gave = 0

    def push(self, chunk: Any) -> Array:
        """The rows [n, hop] that a chunk completes.

        Raises:
            InputShapeError, InputDtypeError: the chunk is no signal of one channel.
        """
        if isinstance(chunk, bytes | bytearray | memoryview):
            raw = self._odd + bytes(chunk)
            whole = len(raw) - len(raw) % self._dtype.itemsize
            samples, self._odd = np.frombuffer(raw[:whole], self._dtype), raw[whole:]
        elif self._odd:
            raise InputShapeError(
                f"an array follows {len(self._odd)} bytes of a sample; give the other bytes of it first"
            )
        else:
            samples = self._converted(array_of(chunk, nested=1))
        self._came += len(samples)
        return self._cut(samples)

    def flush(self) -> Array:
        """The rows at the end: the last samples, and zeros until the output has come for all of them.

        Raises:
            InputShapeError: the last sample is not complete.
        """
        if self._odd:
            raise InputShapeError(
                f"the signal ends within a sample: {len(self._odd)} bytes of {self._dtype.itemsize} are left"
            )
        hop = self._signal.hop
        tail = self._signal.delay if self._came else 0
        missing = -(len(self._waiting) + tail) % hop
        return self._cut(np.zeros(tail + missing, self._dtype))

    def trimmed(self, output: Array) -> Array:
        """An output row. The last row of a signal ends with the sample of the last input."""
        if not self._signal.output:
            return output
        left = self._came + self._signal.delay - self._gave
        self._gave += min(left, len(output))
        return output[:left]

    def _cut(self, samples: Array) -> Array:
        joined = np.concatenate((self._waiting, samples))
        whole = len(joined) - len(joined) % self._signal.hop
        self._waiting = joined[whole:]
        return joined[:whole].reshape(-1, self._signal.hop)

    def _converted(self, samples: Array) -> Array:
        """Samples in the model's type."""
        if samples.ndim != 1:
            raise InputShapeError(
                f"a chunk has shape {list(samples.shape)}; give the samples of one channel, [n]"
            )
        if samples.dtype == self._dtype:
            return samples
        kinds = samples.dtype.kind, self._dtype.kind
        if kinds == ("f", "i"):
            if not bool((np.abs(samples) <= 1).all()):  # NaN too
                raise InputDtypeError(
                    f"model {self._model.name} takes int16; floats stand for it from -1 to 1 only: scale them"
                )
            whole: Array = np.minimum(np.rint(samples * FULL_SCALE), FULL_SCALE - 1)
            return whole.astype(self._dtype)
        if kinds == ("i", "f") and samples.dtype == np.int16:
            return samples.astype(self._dtype) / np.float32(FULL_SCALE)
        if kinds == ("f", "f"):
            return samples.astype(self._dtype)
        raise InputDtypeError(
            f"model {self._model.name} takes samples of {self._dtype.name}, not {samples.dtype}; give int16 "
            "or floats"
        )
