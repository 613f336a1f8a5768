"""Reads requests of streams, many at a time: those of Triton's protocol, and blocks of Attach streams."""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

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
MOST_FORMS = 1024
"""`kMostForms` of infer.cpp: so many are known at a time."""

START, END = 1, 2


class InferReader:
    """Knows requests by their forms. For one thread."""

    def __init__(self) -> None:
        """Raises NativeError where there is no library."""
        self._library = load()
        self._handle = self._library.infer_make()
        weakref.finalize(self, self._library.infer_free, self._handle)

    def learn(self, request: bytes) -> int:
        """The number of a request's form, or UNKNOWN if such requests must be parsed.

        The first new form beyond MOST_FORMS makes it forget all others.
        """
        return int(self._library.infer_learn(self._handle, request, len(request)))

    def read(self, data: bytes, begins: Sequence[int], ends: Sequence[int]) -> list[InferRow]:
        """Requests that begin and end at these places of `data`; each has the numbers of an InferRow."""
        read = partial(self._library.infer_read, self._handle)
        return _rows(read, len(InferRow._fields), data, begins, ends)


class BlockRow(NamedTuple):
    """One message of an Attach stream. Places are of the bytes that it was read from.

    Attributes:
        handle: of the one session of a block; 0 if the message must be parsed.
        first_seq, steps, dtype: as in the message.
        ack: as in the message; NO_ACK if there is none.
        inputs_at, inputs_end: where the input rows are.
    """

    handle: int
    first_seq: int
    steps: int
    ack: int
    dtype: int
    inputs_at: int
    inputs_end: int


NO_ACK = -1


class BlockReader:
    """Reads blocks that have one session, no deadline and no resets."""

    def __init__(self) -> None:
        """Raises NativeError where there is no library."""
        self._read = load().blocks_read

    def read(self, data: bytes, begins: Sequence[int], ends: Sequence[int]) -> list[BlockRow]:
        """Messages that begin and end at these places of `data`; each has the numbers of a BlockRow."""
        return _rows(self._read, len(BlockRow._fields), data, begins, ends)


def _rows(
    read: Callable[..., None], width: int, data: bytes, begins: Sequence[int], ends: Sequence[int]
) -> list[Any]:
    count, starts, stops = len(begins), array("q", begins), array("q", ends)
    rows = array("q", bytes(8 * width * count))
    read(data, _at(starts), _at(stops), count, _at(rows))
    values = iter(rows)
    return list(zip(*[values] * width, strict=True))


def _at(numbers: array[int]) -> int:
    return numbers.buffer_info()[0]
