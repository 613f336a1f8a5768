"""The session table: one row per slot, one array per fact."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Mapping
from copy import copy

import numpy as np

from carousel_server.core.errors import CarouselError, ended
from carousel_server.core.moves import Hold
from carousel_server.core.quotas import Quota, quota_exceeded
from carousel_server.core.types import (
    Durability,
    Int64s,
    ModelView,
    OpenSpec,
    Phase,
    SessionRef,
    SessionView,
)

from .row_set import RowSet, occurrence

_FORMER_PER_SLOT = 16
"""A slot that is short may have had several sessions before a command to the first of them arrives."""


class SessionTable:
    """Cursors and settings of every session of one engine. Used on the engine's thread only.

    Row r is row r of the slab and of the window. Its entries mean something only while a session is on it.
    `Rows` and its parts are the only writers.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
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
        # When the session came onto the row, and the last step that it had run by then.
        self.begun_s = np.zeros(slots, np.float64)
        self.begun_applied: Int64s = np.zeros(slots, np.int64)
        # Monotonic instant of the last use, and the pause after which the session expires.
        self.last_used_s = np.zeros(slots, np.float64)
        self.idle_ttl_s = np.zeros(slots, np.float64)
        self.created_at_unix_s = np.zeros(slots, np.float64)
        self.seed = np.zeros(slots, np.uint64)
        # Place of the initial state that the session began with; 0 is the default.
        self.initial: Int64s = np.zeros(slots, np.int64)
        self.durability = np.zeros(slots, np.int8)
        # True where a store keeps the session; where it does and outputs wait for its answer.
        self.tracked = np.zeros(slots, np.bool_)
        self.sync = np.zeros(slots, np.bool_)
        # Highest attach_id of a Bind: what comes with a lower one is older.
        self.attach_id = np.zeros(slots, np.uint64)
        # Which sink gets the outputs (-1: none), and under which number it knows the session.
        self.sink: Int64s = np.full(slots, -1, np.int64)
        self.tag: Int64s = np.zeros(slots, np.int64)
        # How the client of that sink learns that the session has left; a `Hold`.
        self.hold = np.zeros(slots, np.int8)
        # The session's owner: its place among the addresses of `Placing`, and whether it is another replica.
        self.owner: Int64s = np.full(slots, -1, np.int64)
        self.elsewhere = np.zeros(slots, np.bool_)
        # True while the session waits to be handed over, and runs no steps.
        self.stopped = np.zeros(slots, np.bool_)
        # Rows whose session may lack steps that an earlier holder has answered. A reset makes it whole.
        self.incomplete: set[int] = set()
        # Names, for people and for the directory.
        self.ids = [""] * slots
        self.tenants = [""] * slots
        # Number of each row's tenant in `tenancy`, for arrays.
        self.tenancy = Tenancy()
        self.tenant: Int64s = np.zeros(slots, np.int64)
        # Sessions that have left, oldest first: id and reason, for late commands to each, and to no other.
        self._former: OrderedDict[SessionRef, tuple[str, str]] = OrderedDict()

    # -- reading

    def read_only(self) -> SessionTable:
        """The same table through arrays that cannot be written."""
        table = copy(self)
        for name, array in vars(self).items():
            if isinstance(array, np.ndarray):
                view = array.view()
                view.flags.writeable = False
                setattr(table, name, view)
        return table

    def why_gone(self, ref: SessionRef) -> CarouselError:
        """The error for a command to a session that is no longer there."""
        if ref in self._former:
            session_id, reason = self._former[ref]
            return ended(reason, session_id)
        return CarouselError("SESSION_NOT_FOUND", "the session ended some time ago")

    def was_parked(self, ref: SessionRef) -> bool:
        """True if the session that `ref` names left its row for the store."""
        return ref in self._former and self._former[ref][1] == "SESSION_PARKED"

    def visible(self, rows: Int64s) -> Int64s:
        """Last step of each row whose output may be sent: the applied one or, for sync, the durable."""
        return np.where(self.sync[rows], self.durable[rows], self.applied[rows])

    def view(self, row: int, model: ModelView, phase: Phase) -> SessionView:
        """A session as its owner may see it."""
        return SessionView(
            id=self.ids[row],
            model=model.name,
            phase=phase,
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
            initial=("", *model.initials)[self.initial[row]],
            whole=row not in self.incomplete,
        )

    # -- a row gets a session, and loses it

    def open(
        self, row: int, spec: OpenSpec, epoch: int, created_at_unix_s: float, now: float
    ) -> None:
        """Starts a session on a free row, with its cursors at 0. `spec` has its seed and idle_ttl_s."""
        assert not self.ids[row], f"row {row} is in use"
        assert spec.seed is not None, "a session begins with a seed"
        for cursor in (self.applied, self.received, self.ack, self.durable, self.pending):
            cursor[row] = 0
        self.generating[row] = False
        self.epoch[row] = epoch
        self.begun_s[row] = self.last_used_s[row] = now
        self.begun_applied[row] = 0
        self.idle_ttl_s[row] = spec.idle_ttl_s
        self.created_at_unix_s[row] = created_at_unix_s
        self.seed[row] = spec.seed
        self.durability[row] = spec.durability
        self.tracked[row] = spec.durability >= Durability.ASYNC
        self.sync[row] = spec.durability >= Durability.SYNC
        self.attach_id[row] = 0
        self.sink[row] = -1
        self.hold[row] = Hold.NONE
        self.stopped[row] = False
        self.ids[row] = spec.session_id
        self.tenants[row] = spec.tenant
        self.tenant[row] = self.tenancy.enter(spec.tenant)

    def close(self, ref: SessionRef, reason: str) -> None:
        """Frees a row; remembers why its session left, for late commands to it."""
        row = ref.row
        self.tracked[row] = self.sync[row] = self.stopped[row] = self.elsewhere[row] = False
        self.incomplete.discard(row)
        self._former[ref] = (self.ids[row], reason)
        if len(self._former) > self.slots * _FORMER_PER_SLOT:
            self._former.popitem(last=False)
        self.tenancy.leave(self.tenants[row])
        self.ids[row] = self.tenants[row] = ""

    def check_integrity(self, taken: np.ndarray, window_steps: int) -> None:
        """Asserts what must hold of every row between two ticks; `taken` are those with a session."""
        left = ~taken & (self.tracked | (self.pending != 0))
        assert not left.any(), "a free row has steps to run, or counts as durable"
        assert not (self.sync & ~self.tracked).any(), "sync without a store"
        assert all(self.tracked[row] for row in self.incomplete), "incomplete without a store"
        assert not (self.stopped & ~self.tracked).any(), "stopped without a store to go to"
        assert ((self.sink >= 0) == (self.hold != Hold.NONE))[taken].all(), "sink and hold disagree"
        assert all(map(self.ready.__contains__, self.pending.nonzero()[0].tolist())), "forgotten"
        waiting = self.received - self.applied
        in_order = (
            (self.durable <= self.applied)
            & (self.ack <= self.applied)
            & (waiting >= 0)
            & (self.received - self.ack <= window_steps)
        )
        assert in_order[taken].all(), "durable, ack ≤ applied ≤ received ≤ ack + window is broken"
        rows = np.bincount(self.tenant[taken], minlength=1)
        counted = {self.tenancy.number(name): n for name, n in self.tenancy.rows.items()}
        assert counted == {n: c for n, c in enumerate(rows.tolist()) if c}, (
            "the rows per tenant are off"
        )
        known = np.where(self.generating, self.pending >= 0, self.pending == waiting)
        assert known[taken].all(), "pending is off"


class Tenancy:
    """Tenants with sessions on the rows, as small numbers for arrays, and how many rows each has.

    A number is free again when its tenant's last row is, so numbers stay below the number of slots.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        # The tenant of each number.
        self.names: dict[int, str] = {}
        self._rows: dict[str, int] = {}
        self._free: list[int] = []

    @property
    def several(self) -> bool:
        """True while more than one tenant has rows."""
        return len(self._numbers) > 1

    @property
    def rows(self) -> Mapping[str, int]:
        """Rows of each tenant that has any."""
        return self._rows

    def enter(self, tenant: str) -> int:
        """Counts one more row of a tenant; returns its number."""
        number = self._numbers.get(tenant)
        if number is None:
            number = heapq.heappop(self._free) if self._free else len(self._numbers)
            self._numbers[tenant] = number
            self.names[number] = tenant
            self._rows[tenant] = 0
        self._rows[tenant] += 1
        return number

    def leave(self, tenant: str) -> None:
        """Counts one row less."""
        self._rows[tenant] -= 1
        if not self._rows[tenant]:
            del self._rows[tenant]
            number = self._numbers.pop(tenant)
            del self.names[number]
            heapq.heappush(self._free, number)

    def number(self, tenant: str) -> int:
        """The number of a tenant, or -1 if it has no row."""
        return self._numbers.get(tenant, -1)


class StepQuota:
    """Compares what waits, as the table has it, with `tenant_steps`. Used on the engine's thread only."""

    def __init__(self, table: SessionTable, most: int, retry_after_s: float) -> None:
        """`most` 0 is no limit."""
        self._table = table
        self._most = most
        self._retry_after_s = retry_after_s

    def __bool__(self) -> bool:
        return self._most > 0

    def fits(self, rows: Int64s, steps: int) -> np.ndarray:
        """Which rows may have `steps` more, in the order given, none twice; bool[n]."""
        table = self._table
        tenants = table.tenant[rows]
        ready = table.ready.where(table.pending)
        waiting = np.bincount(
            table.tenant[ready], table.pending[ready], minlength=int(tenants.max(initial=0)) + 1
        )
        room = ((self._most - waiting) // steps).astype(np.int64)
        return np.asarray(occurrence(tenants) < room[tenants])

    def check(self, row: int, steps: int, first_seq: int = 0) -> None:
        """Raises CarouselError QUOTA_EXCEEDED if the row's tenant may not have so many steps more."""
        if self and not self.fits(np.asarray([row]), steps)[0]:
            refusal = self.refusal(row)
            refusal.seq = first_seq
            raise refusal

    def refusal(self, row: int) -> CarouselError:
        """The error for steps of a row whose tenant is at its limit."""
        tenant = self._table.tenants[row]
        what = "steps waiting on this model"
        return quota_exceeded(tenant, Quota.STEPS, what, self._most, self._retry_after_s)
