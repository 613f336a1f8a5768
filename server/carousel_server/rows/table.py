"""The session table: one row per slot, one array per fact."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from carousel_server.core.errors import CarouselError, ended
from carousel_server.core.types import (
    Durability,
    Int64s,
    ModelView,
    OpenSpec,
    Phase,
    SessionRef,
    SessionView,
)

from .lifecycle import Event, advance
from .row_set import RowSet
from .tenancy import Tenancy

_FORMER_PER_SLOT = 16
"""A slot that is short may have had several sessions before a command to the first of them arrives."""


class SessionTable:
    """Cursors and settings of every session of one engine. Used on the engine's thread only.

    Row r is row r of the slab and of the window. Arrays are public: the hot path reads and writes them
    for many rows at a time. A row's content means something only while `phase` is not CLOSED.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        # Where each session is in its life.
        self.phase = np.full(slots, Phase.CLOSED, np.int8)
        # Last step that ran.
        self.applied: Int64s = np.zeros(slots, np.int64)
        # Last step accepted into the window; received - applied steps wait there.
        self.received: Int64s = np.zeros(slots, np.int64)
        # Last output that the client has confirmed; outputs up to here may be forgotten.
        self.ack: Int64s = np.zeros(slots, np.int64)
        # Last step that the store has confirmed.
        self.durable: Int64s = np.zeros(slots, np.int64)
        # Steps that can run now: waiting inputs, or what a generation wants.
        self.pending: Int64s = np.zeros(slots, np.int64)
        # At least the rows that have any.
        self.ready = RowSet(slots)
        # True while a generation drives the session.
        self.generating = np.zeros(slots, np.bool_)
        # Fencing token: grows at each activation.
        self.epoch: Int64s = np.zeros(slots, np.int64)
        # Monotonic instant of the last use, and the pause after which the session expires.
        self.last_used_s = np.zeros(slots, np.float64)
        self.idle_ttl_s = np.zeros(slots, np.float64)
        self.created_at_unix_s = np.zeros(slots, np.float64)
        self.seed = np.zeros(slots, np.uint64)
        self.durability = np.zeros(slots, np.int8)
        # True where a store keeps the session; where it does and outputs wait for its answer.
        self.tracked = np.zeros(slots, np.bool_)
        self.sync = np.zeros(slots, np.bool_)
        # Highest attach_id of a Bind: what comes with a lower one is older.
        self.attach_id = np.zeros(slots, np.uint64)
        # Which sink gets the outputs (-1: none), and under which number it knows the session.
        self.sink: Int64s = np.full(slots, -1, np.int64)
        self.tag: Int64s = np.zeros(slots, np.int64)
        # Names, for people and for the directory.
        self.ids = [""] * slots
        self.tenants = [""] * slots
        # Number of each row's tenant in `tenancy`, for arrays.
        self.tenancy = Tenancy()
        self.tenant: Int64s = np.zeros(slots, np.int64)
        # Sessions that have left, oldest first: id and reason, for late commands to each, and to no other.
        self._former: OrderedDict[SessionRef, tuple[str, str]] = OrderedDict()

    def open(
        self,
        row: int,
        spec: OpenSpec,
        *,
        seed: int,
        idle_ttl_s: float,
        now: float,
        created_at_unix_s: float,
    ) -> None:
        """Starts a session on a row: cursors at 0, phase OPENING."""
        assert self.phase_of(row) is Phase.CLOSED, f"row {row} is in use"
        for cursor in (self.applied, self.received, self.ack, self.durable, self.pending):
            cursor[row] = 0
        self.generating[row] = False
        self.phase[row] = Phase.OPENING
        self.epoch[row] = 1
        self.last_used_s[row] = now
        self.idle_ttl_s[row] = idle_ttl_s
        self.created_at_unix_s[row] = created_at_unix_s
        self.seed[row] = seed
        self.durability[row] = spec.durability
        self.tracked[row] = spec.durability >= Durability.ASYNC
        self.sync[row] = spec.durability >= Durability.SYNC
        self.attach_id[row] = 0
        self.sink[row] = -1
        self.ids[row] = spec.session_id
        self.tenants[row] = spec.tenant
        self.tenant[row] = self.tenancy.enter(spec.tenant)

    def set_cursors(self, row: int, *, applied: int, ack: int, epoch: int) -> None:
        """Moves a fresh session to where a snapshot stands."""
        self.applied[row] = self.received[row] = applied
        self.ack[row] = ack
        self.epoch[row] = epoch

    def phase_of(self, row: int) -> Phase:
        """Where a row's session is in its life."""
        return Phase(int(self.phase[row]))

    def in_phase(self, phase: Phase) -> np.ndarray:
        """Rows whose session is there in its life; bool[slots]."""
        # As a plain integer, which numpy compares five times as fast as a member of an enumeration.
        return np.asarray(self.phase == int(phase))

    def advance(self, row: int, event: Event) -> Phase:
        """Changes a session's phase by the table of lifecycle.py."""
        after = advance(self.phase_of(row), event)
        self.phase[row] = after
        return after

    def close(self, ref: SessionRef, reason: str) -> None:
        """Ends a row's session, here at least; remembers why, for late commands to it."""
        assert self.phase_of(ref.row) in (Phase.CLOSED, Phase.PARKED), "advance the phase first"
        self.phase[ref.row] = Phase.CLOSED
        self.tracked[ref.row] = self.sync[ref.row] = False
        self._former[ref] = (self.ids[ref.row], reason)
        if len(self._former) > self.slots * _FORMER_PER_SLOT:
            self._former.popitem(last=False)
        self.tenancy.leave(self.tenants[ref.row])
        self.ids[ref.row] = self.tenants[ref.row] = ""

    def why_gone(self, ref: SessionRef) -> CarouselError:
        """What to tell a command to a session that is no longer there."""
        if ref in self._former:
            session_id, reason = self._former[ref]
            return ended(reason, session_id)
        return CarouselError("SESSION_NOT_FOUND", "the session ended some time ago")

    def was_parked(self, ref: SessionRef) -> bool:
        """True if the session that `ref` names left its row for the store."""
        return ref in self._former and self._former[ref][1] == "SESSION_PARKED"

    def visible(self, rows: Int64s) -> Int64s:
        """Last step of each row whose output may be told: the applied one or, for sync, the durable."""
        return np.where(self.sync[rows], self.durable[rows], self.applied[rows])

    def drop_pending(self, rows: Int64s | int) -> Int64s:
        """Forgets the accepted steps that have not run; returns the seqs of the first of each."""
        self.received[rows] = self.applied[rows]
        self.pending[rows] = 0
        return np.asarray(self.applied[rows] + 1)

    def expired(self, now: float) -> Int64s:
        """Rows whose session has been idle for too long; int64[n].

        A session with steps to run is not idle, however long ago they came.
        """
        idle = ~self.in_phase(Phase.CLOSED) & (self.pending == 0)
        return np.flatnonzero(idle & (now - self.last_used_s > self.idle_ttl_s))

    def rows_of(self, tenant: str) -> list[int]:
        """Rows of a tenant's sessions."""
        return [
            r
            for r in np.flatnonzero(~self.in_phase(Phase.CLOSED)).tolist()
            if self.tenants[r] == tenant
        ]

    def view(self, ref: SessionRef, model: ModelView) -> SessionView:
        """A session as its owner may see it."""
        row = ref.row
        return SessionView(
            id=self.ids[row],
            model=model.name,
            phase=self.phase_of(row),
            applied=int(self.applied[row]),
            ack=int(self.ack[row]),
            durable=int(self.durable[row]),
            epoch=int(self.epoch[row]),
            durability=Durability(int(self.durability[row])),
            idle_ttl_s=float(self.idle_ttl_s[row]),
            created_at_unix_s=float(self.created_at_unix_s[row]),
            fingerprint=model.fingerprint,
            window_steps=model.window_steps,
            seed=int(self.seed[row]),
            execution_class=model.execution_class,
        )

    def check_integrity(self, window_steps: int) -> None:
        """Asserts what must hold of every row between two ticks."""
        closed = self.in_phase(Phase.CLOSED)
        left = closed & (self.tracked | (self.pending != 0))
        assert not left.any(), "a closed row has steps to run, or counts as durable"
        assert not (self.sync & ~self.tracked).any(), "sync without a store"
        assert all(map(self.ready.__contains__, self.pending.nonzero()[0].tolist())), "forgotten"
        waiting = self.received - self.applied
        in_order = (
            (self.durable <= self.applied)
            & (self.ack <= self.applied)
            & (waiting >= 0)
            & (self.received - self.ack <= window_steps)
        )
        assert (in_order | closed).all(), (
            "durable, ack ≤ applied ≤ received ≤ ack + window is broken"
        )
        taken = np.bincount(self.tenant[~closed], minlength=1)
        counted = {self.tenancy.number(name): n for name, n in self.tenancy.rows.items()}
        assert counted == {n: c for n, c in enumerate(taken.tolist()) if c}, (
            "the rows per tenant are off"
        )
        known = np.where(self.generating, self.pending >= 0, self.pending == waiting)
        assert (known | closed).all(), "pending is off"
