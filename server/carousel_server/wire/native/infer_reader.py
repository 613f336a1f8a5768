"""Reads requests of Triton's protocol, many at a time."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from carousel_server.core.types import Int64s

from .library import load


class InferRow(NamedTuple):
    """One request. Places are of the bytes that it was read from.

    Attributes:
        form: number of what it is beside the rest, as `learn` has returned it; UNKNOWN if it must be parsed.
        sequence: its sequence_id as a signed number; 0 if it names none.
        flags: START and END.
        id_at, id_end: where its id is.
        row_at, row_end: where its one tensor is.
    """

    form: int
    sequence: int
    flags: int
    id_at: int
    id_end: int
    row_at: int
    row_end: int


UNKNOWN = -1
START, END = 1, 2


class InferReader:
    """Knows requests by their forms. For one thread."""

    def __init__(self) -> None:
        """Raises NativeError where there is no library."""
        self._library = load()
        self._handle = self._library.infer_make()
        weakref.finalize(self, self._library.infer_free, self._handle)

    def learn(self, request: bytes) -> int:
        """The number of a request's form, or UNKNOWN if such requests must be parsed."""
        return int(self._library.infer_learn(self._handle, request, len(request)))

    def read(self, data: bytes, begins: Sequence[int], ends: Sequence[int]) -> list[InferRow]:
        """Requests that begin and end at these places of `data`; each has the numbers of an InferRow."""
        starts, stops = np.asarray(begins, np.int64), np.asarray(ends, np.int64)
        rows: Int64s = np.empty((len(begins), len(InferRow._fields)), np.int64)
        self._library.infer_read(
            self._handle, data, starts.ctypes.data, stops.ctypes.data, len(begins), rows.ctypes.data
        )
        return rows.tolist()  # type: ignore[no-any-return]
