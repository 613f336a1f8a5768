"""The bytes of a journal: records one after the other, each with a checksum."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from carousel._error_bases import JournalError

MAGIC = b"CRSLjrn1"

_HEAD = struct.Struct("<IBQ")  # payload bytes, kind, seq
_CRC = struct.Struct("<I")  # of head and payload

OVERHEAD_BYTES = _HEAD.size + _CRC.size


class Kind(IntEnum):
    """What a record tells."""

    BEGIN = 1
    """Payload: JSON with session_id and model. The first record."""
    BOUND = 2
    """seq: the epoch; payload: attach id, seed, instant of opening, tracked, execution class."""
    INPUTS = 3
    """seq: of the first row; payload: number of rows, rows. Replaces what there was from seq on."""
    OUTPUTS = 4
    """seq: of the first row; payload: number of rows, rows."""
    TAKEN = 5
    """Outputs up to seq will not be asked for again."""
    DURABLE = 6
    """The store has steps up to seq."""
    WITHDRAWN = 7
    """Steps from seq on were refused."""
    MOVED = 8
    """The session went on to seq without steps from here."""
    CLOSING = 9
    """The application has closed the session."""
    INPUTS_WITH_RESETS = 10
    """As INPUTS, with a byte of 0 or 1 for each row between their number and the rows."""


class Record(NamedTuple):
    """One record."""

    kind: int
    seq: int
    payload: bytes


def encode(kind: Kind, seq: int = 0, payload: bytes = b"") -> bytes:
    """A record as it is written."""
    body = _HEAD.pack(len(payload), kind, seq) + payload
    return body + _CRC.pack(zlib.crc32(body))


def decode(data: bytes) -> Iterator[tuple[Record, int]]:
    """Records with the offsets of their ends, up to a tail that was not written whole.

    Raises:
        JournalError: these are not the bytes of a journal, or a record before the last is damaged.
    """
    if not data.startswith(MAGIC):
        if MAGIC.startswith(data):  # its very first write was torn
            return
        raise JournalError("the file is no journal of this SDK, or of another version")
    at = len(MAGIC)
    while at + _HEAD.size <= len(data):
        payload_bytes, kind, seq = _HEAD.unpack_from(data, at)
        end = at + OVERHEAD_BYTES + payload_bytes
        if end > len(data):
            return
        (crc,) = _CRC.unpack_from(data, end - _CRC.size)
        if crc != zlib.crc32(data[at : end - _CRC.size]):
            if end == len(data) or not any(
                data[at:]
            ):  # zeros are what a file grew by and never got
                return
            raise JournalError(f"the journal is damaged at byte {at}")
        yield Record(kind, seq, data[at + _HEAD.size : end - _CRC.size]), end
        at = end
