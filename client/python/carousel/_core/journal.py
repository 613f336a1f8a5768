"""What must survive the end of a client: inputs before they are sent, outputs before they are handed out.

No files here. A journal is made of the bytes that are there, and hands new ones to its `JournalPort`.
"""

from __future__ import annotations

import json
import struct
from collections import deque
from typing import NamedTuple, Protocol

import numpy as np

from carousel._error_bases import JournalError
from carousel_protos.v1 import carousel_pb2 as pb

from .journal_records import MAGIC, OVERHEAD_BYTES, Kind, Record, decode, encode
from .tickets import Rows

LEAST_COMPACTED_BYTES = 256 << 10
"""A smaller journal is left as it is, whatever part of it is garbage."""

_BOUND = struct.Struct("<QQd?")
_COUNT = struct.Struct("<I")


class JournalPort(Protocol):
    """Where the bytes go. An OSError ends the journal."""

    def append(self, data: bytes) -> None:
        """Adds bytes at the end, in one write; they are there when this process dies."""

    def replace(self, data: bytes) -> None:
        """Puts bytes in place of all that was there, at once."""

    def close(self) -> None:
        """Releases the medium."""


class Part(NamedTuple):
    """Consecutive rows: uint8[steps, row bytes], the first of them for step `first`.

    `resets` is uint8[steps], 1 for steps that start from the initial state; None for none.
    """

    first: int
    rows: Rows
    resets: Rows | None = None

    @property
    def last(self) -> int:
        """Step of the last row."""
        return self.first + len(self.rows) - 1

    def cut(self, begin: int, end: int) -> Part:
        """Steps `begin` to `end` of them."""
        part = slice(begin - self.first, end - self.first + 1)
        return Part(begin, self.rows[part], None if self.resets is None else self.resets[part])

    def as_inputs(self) -> tuple[Kind, bytes]:
        """The record that holds them as inputs: its kind and payload."""
        count, rows = _COUNT.pack(len(self.rows)), self.rows.tobytes()
        if self.resets is None:
            return Kind.INPUTS, count + rows
        return Kind.INPUTS_WITH_RESETS, count + self.resets.tobytes() + rows


class Journal:
    """One session's journal.

    Attributes:
        session_id, model: whose it is; empty before `begin`.
        epoch, attach_id, identity, tracked, execution_class: of the last Bound.
        was_bound: the server has known the session.
        submitted: last step whose input was written down.
        received: last step whose output was.
        taken: last output that the application had no more need of.
        durable: last step that the store had.
        closing: the application has closed the session.
        restored_to: what was `submitted` when an earlier process ended.
    """

    def __init__(self, port: JournalPort, data: bytes = b"") -> None:
        """From the bytes that are there; a torn tail is cut off.

        Raises:
            JournalError: they are damaged, or no journal's.
        """
        self._port = port
        self._failed: OSError | None = None
        self._open = True
        self._reset()
        whole_bytes = 0
        for record, whole_bytes in decode(data):  # noqa: B007 - it is used after the loop
            self._read(record)
        self._size = whole_bytes or len(MAGIC)
        self.restored_to = self.submitted
        if whole_bytes < len(data):
            self._rewrite()

    def _reset(self) -> None:
        self.session_id = self.model = self.execution_class = ""
        self.epoch = self.attach_id = 0
        self.identity: tuple[int, float] = (0, 0.0)
        self.tracked = self.was_bound = self.closing = False
        self.submitted = self.received = self.taken = self.durable = 0
        self.parts_in: deque[Part] = deque()
        self.parts_out: deque[Part] = deque()
        self.restored_to = 0

    @property
    def unread(self) -> int:
        """How many outputs of an earlier process the application may not have seen."""
        return max(self.restored_to - self.taken, 0)

    def begin(self, session_id: str, model: str) -> None:
        """Starts a journal that is new, or whose session is closed."""
        self._reset()
        self.session_id, self.model = session_id, model
        self._rewrite()
        self._check()

    # -- what happens; only what is written before it counts raises JournalError

    def bound(self, session: pb.Session, attach_id: int) -> None:
        """The session was bound."""
        created_at_s = session.created_at.seconds + session.created_at.nanos / 1e9
        tracked = session.durability > pb.DURABILITY_NONE
        packed = _BOUND.pack(attach_id, session.seed, created_at_s, tracked)
        self._add(Kind.BOUND, session.epoch, packed + session.execution_class.encode())
        self.durable_at(session.durable)

    def inputs(self, first: int, rows: Rows, resets: Rows | None = None) -> None:
        """Rows, and their resets, are about to be sent. Raises JournalError: they must not be."""
        kind, payload = Part(first, rows, resets).as_inputs()
        self._add(kind, first, payload)
        self._check()

    def outputs(self, first: int, rows: Rows) -> None:
        """Rows have come and are about to be handed out. Raises JournalError: they must not be."""
        self._add(Kind.OUTPUTS, first, _COUNT.pack(len(rows)) + rows.tobytes())
        self._check()

    def take(self, seq: int) -> None:
        """The application asks for more, so it has what it got up to `seq`."""
        if seq > self.taken:
            self._add(Kind.TAKEN, seq)

    def durable_at(self, seq: int) -> None:
        """The store has steps up to `seq`."""
        if seq != self.durable:
            self._add(Kind.DURABLE, seq)

    def withdraw(self, seq: int) -> None:
        """Steps from `seq` on were refused."""
        if seq <= self.submitted:
            self._add(Kind.WITHDRAWN, seq)

    def move_to(self, seq: int) -> None:
        """The session stands at `seq`, by no steps from here."""
        self._add(Kind.MOVED, seq)

    def close_session(self) -> None:
        """The application closes the session."""
        self._add(Kind.CLOSING)

    def close(self) -> None:
        """Releases the medium. A second call does nothing."""
        if self._open:
            self._open = False
            self._port.close()

    # -- bytes

    def _add(self, kind: Kind, seq: int = 0, payload: bytes = b"") -> None:
        if not self._open or self._failed is not None:
            return
        data = encode(kind, seq, payload)
        try:
            self._port.append(data)
            self._size += len(data)
            self._read(Record(kind, seq, payload))
            if self._size > max(LEAST_COMPACTED_BYTES, 4 * self._live_bytes()):
                self._rewrite()
        except OSError as error:
            self._failed = error

    def _check(self) -> None:
        if self._failed is not None:
            raise JournalError(f"the journal takes nothing more: {self._failed}", journal=self)

    def _rewrite(self) -> None:
        data = self.encode()
        try:
            self._port.replace(data)
        except OSError as error:
            self._failed = error
        self._size = len(data)

    def encode(self) -> bytes:
        """All that counts, as a new journal."""
        names = json.dumps({"session_id": self.session_id, "model": self.model})
        records = [MAGIC]
        if self.session_id:
            records.append(encode(Kind.BEGIN, 0, names.encode()))
        if self.was_bound:
            packed = _BOUND.pack(self.attach_id, *self.identity, self.tracked)
            records.append(encode(Kind.BOUND, self.epoch, packed + self.execution_class.encode()))
        if self.session_id:
            base = min([part.first - 1 for part in (*self.parts_in, *self.parts_out)], default=-1)
            records.append(encode(Kind.MOVED, self.received if base < 0 else base))
            records.append(encode(Kind.DURABLE, self.durable))
        for part in self.parts_in:
            kind, payload = part.as_inputs()
            records.append(encode(kind, part.first, payload))
        for part in self.parts_out:
            payload = _COUNT.pack(len(part.rows)) + part.rows.tobytes()
            records.append(encode(Kind.OUTPUTS, part.first, payload))
        if self.session_id:
            records.append(encode(Kind.TAKEN, self.taken))
        if self.closing:
            records.append(encode(Kind.CLOSING))
        return b"".join(records)

    def _live_bytes(self) -> int:
        parts = (*self.parts_in, *self.parts_out)
        return sum(OVERHEAD_BYTES + part.rows.nbytes for part in parts)

    # -- records

    def _read(self, record: Record) -> None:
        kind, seq, payload = record
        if kind == Kind.BEGIN:
            names = json.loads(payload)
            self.session_id, self.model = names["session_id"], names["model"]
        elif kind == Kind.BOUND:
            self.was_bound, self.epoch = True, seq
            self.attach_id, seed, created_at_s, self.tracked = _BOUND.unpack_from(payload)
            self.identity = seed, created_at_s
            self.execution_class = payload[_BOUND.size :].decode()
        elif kind in (Kind.INPUTS, Kind.INPUTS_WITH_RESETS):
            self._cut(seq)
            read = _part if kind == Kind.INPUTS else _part_with_resets
            self.parts_in.append(read(seq, payload))
            self.submitted = self.parts_in[-1].last
        elif kind == Kind.OUTPUTS:
            self.parts_out.append(_part(seq, payload))
            self.received = self.parts_out[-1].last
            self.submitted = max(self.submitted, self.received)
        elif kind == Kind.TAKEN:
            self.taken = max(self.taken, seq)
        elif kind == Kind.DURABLE:
            self.durable = seq
        elif kind == Kind.WITHDRAWN:
            self._cut(seq)
            self.submitted = min(self.submitted, seq - 1)
        elif kind == Kind.MOVED:
            self.parts_in.clear()
            self.parts_out.clear()
            self.submitted = self.received = self.taken = seq
        elif kind == Kind.CLOSING:
            self.closing = True
        else:
            raise JournalError(
                f"the journal has a record of kind {kind}, which this SDK does not know; update it to the "
                "version that wrote the journal"
            )
        self._prune()

    def _cut(self, seq: int) -> None:
        """Inputs from `seq` on count no longer."""
        parts = self.parts_in
        while parts and parts[-1].first >= seq:
            parts.pop()
        if parts and parts[-1].last >= seq:
            parts[-1] = parts[-1].cut(parts[-1].first, seq - 1)

    def _prune(self) -> None:
        needed = min(self.received, self.durable) if self.tracked else self.received
        while self.parts_in and self.parts_in[0].last <= needed:
            self.parts_in.popleft()
        if self.parts_in and self.parts_in[0].first <= needed:
            # A compacted journal begins with what is needed: `received` is told by where that is.
            part = self.parts_in[0]
            self.parts_in[0] = part.cut(needed + 1, part.last)
        told = min(self.taken, self.durable) if self.tracked else self.taken
        while self.parts_out and self.parts_out[0].last <= told:
            self.parts_out.popleft()


def _part(first: int, payload: bytes) -> Part:
    (steps,) = _COUNT.unpack_from(payload)
    rows = np.frombuffer(payload, np.uint8, offset=_COUNT.size)
    return Part(first, rows.reshape(steps, -1))


def _part_with_resets(first: int, payload: bytes) -> Part:
    (steps,) = _COUNT.unpack_from(payload)
    data = np.frombuffer(payload, np.uint8, offset=_COUNT.size)
    return Part(first, data[steps:].reshape(steps, -1), data[:steps])
