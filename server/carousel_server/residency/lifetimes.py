"""The life of sessions as verbs: open, close, expire; park, activate, revoke; copy, drain."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

import numpy as np

from carousel_server.core.errors import CarouselError, ended
from carousel_server.core.limits import EngineLimits
from carousel_server.core.metering import EngineMetrics
from carousel_server.core.store import Record, Release, Remove, StorePort, Verdict
from carousel_server.core.types import (
    Durability,
    Int64s,
    ModelView,
    OpenSpec,
    Phase,
    SessionRef,
    SessionView,
)
from carousel_server.rows.delivery import Delivery
from carousel_server.rows.ledger import Ledger
from carousel_server.rows.lifecycle import Event
from carousel_server.rows.rows import Rows
from carousel_server.rows.snapshot import Snapshot, decode
from carousel_server.rows.snapshots import Snapshots
from carousel_server.rows.table import SessionTable

from .directory import Directory

log = logging.getLogger(__name__)

STAY_S = 0.1
"""A session that was fetched has its row for so long at least, if it does not step before: others who
need room would push it out again and again before its first step arrives, and nobody would get on."""


class Lifetimes:
    """What may happen to a session, beside its steps. Used on the engine's thread only."""

    def __init__(
        self,
        model: ModelView,
        limits: EngineLimits,
        table: SessionTable,
        rows: Rows,
        directory: Directory,
        ledger: Ledger,
        snapshots: Snapshots,
        delivery: Delivery,
        metrics: EngineMetrics,
        store: StorePort | None,
        wall: Callable[[], float],
    ) -> None:
        self._model = model
        self._limits = limits
        self._table = table
        self._rows = rows
        self._directory = directory
        self._ledger = ledger
        self._snapshots = snapshots
        self._store = store
        self._wall = wall
        self._delivery = delivery
        self._metrics = metrics
        # Of each row's session, if the store keeps it: when it came, and the last step it had run by then.
        self._came_s = np.full(limits.slots, -np.inf)
        self._came_applied = np.zeros(limits.slots, np.int64)
        # True once the server is shutting down: nothing new begins.
        self.draining = False

    def open(self, spec: OpenSpec, now: float) -> tuple[SessionRef, SessionView]:
        """Opens a session with a zero state, or finds the one that an earlier try opened.

        One that a store keeps has been activated before, so it is only found here.

        Raises:
            CarouselError: SESSION_EXISTS, SLAB_FULL, TOO_MANY_SESSIONS, QUOTA_EXCEEDED, DRAINING,
                MODEL_NOT_CAUSAL, DURABILITY_UNAVAILABLE; SESSION_PARKED if it has left again since it was
                activated.
        """
        self._check_open(spec)
        session_id = spec.session_id or secrets.token_urlsafe(12)
        known = self._directory.claim(spec.tenant, session_id, self._model.name)
        if known is not None:
            view = self._same(spec, known)
            self._table.last_used_s[known.row] = now
            return known, view
        if spec.durability > Durability.NONE or (
            spec.durability is Durability.UNSPECIFIED and self._store is not None
        ):
            self._directory.release(spec.tenant, session_id)
            raise ended("SESSION_PARKED", session_id)
        ref = self._rows.begin(
            replace(spec, session_id=session_id, durability=Durability.NONE),
            idle_ttl_s=min(spec.idle_ttl_s or self._limits.idle_ttl_s, self._limits.max_idle_ttl_s),
            seed=secrets.randbits(63) if spec.seed is None else spec.seed,
            created_at_unix_s=self._wall(),
            now=now,
            make_room=partial(self._make_room, now),
        )
        self._metrics.opened()
        return ref, self._rows.view(ref)

    def activate(self, record: Record, now: float) -> SessionRef:
        """Brings a session from the store onto a row, in the record's epoch.

        Raises:
            CarouselError: SNAPSHOT_DAMAGED, FINGERPRINT_MISMATCH, SLAB_FULL, TOO_MANY_SESSIONS, DRAINING.
        """
        snapshot = self._read(record)
        self._refuse_if_draining()
        key, opened = record.key, record.session
        if self._directory.claim(key.tenant, key.id, self._model.name) is not None:
            raise CarouselError(
                "SESSION_EXISTS", f"session {key.id!r} is open already", field="session_id"
            )
        ref = self._rows.begin(
            OpenSpec(key.tenant, key.id, opened.durability),
            idle_ttl_s=opened.idle_ttl_s,
            seed=opened.seed,
            created_at_unix_s=opened.created_at_unix_s,
            now=now,
            make_room=partial(self._make_room, now, newcomers=False),
        )
        self._table.epoch[ref.row] = record.epoch
        if snapshot is not None:
            self._snapshots.fill(ref.row, snapshot, record.epoch)
            # A copy has the attach_id of its original, which says nothing of its own.
            self._table.attach_id[ref.row] = 0 if record.created else snapshot.attach_id
        self._ledger.begin(ref.row)
        self._came_s[ref.row], self._came_applied[ref.row] = now, self._table.applied[ref.row]
        if record.created:
            self._metrics.opened()
        else:
            self._metrics.moved("resumed")
        return ref

    def restore(
        self, snapshot: Snapshot, spec: OpenSpec, now: float
    ) -> tuple[SessionRef, SessionView]:
        """Opens a session that no store keeps, which goes on where a snapshot of another stands.

        Raises:
            CarouselError: FINGERPRINT_MISMATCH, SNAPSHOT_INVALID, SESSION_EXISTS, or as `open`.
        """
        self._snapshots.check_fits(snapshot)
        self._check_open(spec)
        session_id = spec.session_id or secrets.token_urlsafe(12)
        if self._directory.claim(spec.tenant, session_id, self._model.name) is not None:
            raise CarouselError(
                "SESSION_EXISTS", f"session {session_id!r} is open already", field="session_id"
            )
        ref = self._rows.begin(
            replace(spec, session_id=session_id, durability=Durability.NONE),
            idle_ttl_s=min(snapshot.idle_ttl_s, self._limits.max_idle_ttl_s),
            seed=snapshot.seed if spec.seed is None else spec.seed,
            created_at_unix_s=self._wall(),
            now=now,
            make_room=partial(self._make_room, now),
        )
        self._metrics.opened()
        self._snapshots.fill(ref.row, snapshot, snapshot.epoch + 1)
        return ref, self._rows.view(ref)

    def end(
        self, row: int, event: Event, answered: Callable[[SessionView | CarouselError], None]
    ) -> None:
        """Ends a session for good: tells whoever listens, zeroes the row and frees it.

        Args:
            row: its row.
            event: CLOSE or EXPIRE.
            answered: gets its last view as soon as nothing can bring it back: the store, if one keeps
                it, has forgotten it too.
        """
        reason = "SESSION_EXPIRED" if event is Event.EXPIRE else "SESSION_CLOSED"
        key, epoch, tracked = (
            self._rows.key(row),
            int(self._table.epoch[row]),
            self._table.tracked[row],
        )
        view = self._rows.leave(row, event, ended(reason, key.id))
        self._metrics.ended("expired" if event is Event.EXPIRE else "closed")
        if tracked and self._store is not None:
            remove = Remove(key, epoch, reason)
            remove.reply.add_done_callback(partial(_removed, view, answered))
            self._store.submit(remove)
        else:
            answered(view)

    def park(self, row: int, now: float) -> None:
        """Gives up the slot of a session that the store has all of."""
        assert self._store is not None
        assert self._ledger.is_clean(row), "the store lacks a part of the session"
        self._delivery.park(row, self._rows.view(self._rows.ref(row)))
        release = self._release(row, now)
        self._rows.leave(row, Event.PARK, ended("SESSION_PARKED", self._table.ids[row]))
        self._store.submit(release)
        self._metrics.moved("parked")

    def revoke(self, row: int, error: CarouselError) -> None:
        """Lets go of a session that may be another replica's by now; the store is not told anything."""
        self._rows.leave(row, Event.REVOKE, error)
        self._metrics.moved("revoked")

    def let_lapse(self, row: int, error: CarouselError, now: float) -> None:
        """Lets go of a session because the leases ran out, and gives it back if nobody has it yet.

        The leases will be renewed: without this, the store would hold it for a replica that has it not.
        """
        assert self._store is not None
        release = self._release(row, now)
        self.revoke(row, error)
        self._store.submit(release)

    def _release(self, row: int, now: float) -> Release:
        used_s = self._wall() - (now - float(self._table.last_used_s[row]))
        return Release([(self._rows.key(row), int(self._table.epoch[row]), used_s)])

    def expire(self, now: float) -> None:
        """Ends the sessions that were idle for too long."""
        for row in self._table.expired(now).tolist():
            self.end(row, Event.EXPIRE, _nobody)

    def park_idle(self, now: float) -> None:
        """Parks the sessions that were idle for park_after_s."""
        if self._ledger.tracked:
            idle = now - self._table.last_used_s >= self._limits.park_after_s
            for row in np.flatnonzero(self._parkable() & idle).tolist():
                self.park(row, now)

    def drain(self) -> None:
        """Begins nothing new from now on."""
        self.draining = True
        for row in np.flatnonzero(self._table.in_phase(Phase.RESIDENT)).tolist():
            self._table.advance(row, Event.DRAIN)

    def take(self, ref: SessionRef) -> Snapshot:
        """A session between two steps; steps that wait are not part of it.

        Raises:
            CarouselError: SESSION_BUSY while it generates, or why the session is not there.
        """
        row = self._rows.row_of(ref)
        if self._table.generating[row]:
            raise CarouselError("SESSION_BUSY", "the session is generating")
        return self._snapshots.take([row])[0]

    @property
    def may_get_room(self) -> bool:
        """True if a row can come free without anybody closing a session."""
        return self._ledger.tracked > 0 and not self.draining

    def hurry_room(self, waiting: Mapping[str, int]) -> None:
        """Brings so many sessions to the store that they can be parked: those idle for longest.

        `waiting` is how many sessions of each tenant want a row. A tenant at a quota needs one of its own.
        """
        idle = np.flatnonzero(self._idle())
        idle = idle[np.argsort(self._table.last_used_s[idle], kind="stable")]
        hurried = [idle[: sum(waiting.values())]]
        if self._table.tenancy.several:
            tenants = self._table.tenant[idle]
            for tenant, count in waiting.items():
                hurried.append(idle[tenants == self._table.tenancy.number(tenant)][:count])
        self._ledger.hurry(np.unique(np.concatenate(hurried)))

    def _idle(self) -> np.ndarray:
        """Rows of the store's sessions that have nothing to run; bool[slots]."""
        table = self._table
        free = table.tracked & table.in_phase(Phase.RESIDENT) & (table.pending == 0)
        return np.asarray(free & ~table.generating)

    def _parkable(self) -> np.ndarray:
        """Those of them that the store has all of; bool[slots]."""
        return np.asarray(self._idle() & self._ledger.clean(np.arange(self._table.slots)))

    def _make_room(self, now: float, tenant: str, *, newcomers: bool = True) -> bool:
        """Parks the session that was idle for longest, if there is one that can be; see `STAY_S`.

        It is one of `tenant`'s or, if that is "", of the tenant that has most of those with such a session.
        """
        if not self._ledger.tracked:
            return False
        parkable = self._parkable()
        if tenant:
            parkable &= self._table.tenant == self._table.tenancy.number(tenant)
        if not newcomers:
            parkable &= (self._table.applied > self._came_applied) | (now - self._came_s >= STAY_S)
        rows = np.flatnonzero(parkable)
        if not len(rows):
            return False
        if not tenant and self._table.tenancy.several:
            rows = self._of_the_greatest(rows)
        self.park(int(rows[np.argmin(self._table.last_used_s[rows])]), now)
        return True

    def _of_the_greatest(self, rows: Int64s) -> Int64s:
        """Those of the tenant that has most rows in all."""
        resident = np.bincount(self._table.tenant[~self._table.in_phase(Phase.CLOSED)])
        tenants = self._table.tenant[rows]
        return np.asarray(rows[tenants == tenants[np.argmax(resident[tenants])]])

    def _read(self, record: Record) -> Snapshot | None:
        """The snapshot of a record; None if the session has never been committed."""
        if not record.snapshot and record.seq == 0:
            return None
        if not record.snapshot:
            lost = (
                f"the store has lost the snapshot of session {record.key.id!r} at step {record.seq}"
            )
            raise self._data_loss(record, CarouselError("DATA_LOSS", lost))
        try:
            snapshot = decode(record.snapshot)
            if snapshot.applied != record.seq:
                raise CarouselError(
                    "SNAPSHOT_INVALID", "it is of another step than its record says"
                )
            self._snapshots.check_fits(snapshot)
        except CarouselError as error:
            if error.reason != "SNAPSHOT_INVALID":
                raise
            damaged = f"session {record.key.id!r} in the store: {error.message}"
            raise self._data_loss(record, CarouselError("SNAPSHOT_DAMAGED", damaged)) from error
        return snapshot

    def _data_loss(self, record: Record, error: CarouselError) -> CarouselError:
        """Logs and counts what the store no longer has; returns the same error.

        A snapshot that a caller has just sent is not the store's.
        """
        if not record.created:
            log.error("model %s: %s", self._model.name, error)
            self._metrics.data_loss(error.reason)
        return error

    def _refuse_if_draining(self) -> None:
        if self.draining:
            raise CarouselError(
                "DRAINING", "the server is shutting down", retry_after_s=self._limits.retry_after_s
            )

    def _check_open(self, spec: OpenSpec) -> None:
        self._refuse_if_draining()
        if not self._model.causal:
            raise CarouselError(
                "MODEL_NOT_CAUSAL",
                f"model {self._model.name!r} is bidirectional: each output depends on later inputs, "
                "so it cannot stream; send whole sequences with Infer",
                field="model",
            )
        if spec.durability > Durability.NONE and self._store is None:
            raise CarouselError(
                "DURABILITY_UNAVAILABLE",
                f"this server has no store, so it cannot offer {spec.durability.name}",
                field="durability",
            )

    def _same(self, spec: OpenSpec, ref: SessionRef) -> SessionView:
        """The open session that a repeated open means, if its settings agree."""
        view = self._rows.view(ref)
        idle_ttl_s = min(spec.idle_ttl_s, self._limits.max_idle_ttl_s)
        if (
            (spec.seed is not None and spec.seed != view.seed)
            or (spec.idle_ttl_s and idle_ttl_s != view.idle_ttl_s)
            or (spec.durability and spec.durability != view.durability)
        ):
            raise CarouselError(
                "SESSION_EXISTS",
                f"session {view.id!r} is open with another seed, idle_ttl or durability",
                field="session_id",
            )
        return view


def _nobody(_answer: SessionView | CarouselError) -> None:
    """Stands for a caller where there is none."""


def _removed(
    view: SessionView,
    answered: Callable[[SessionView | CarouselError], None],
    reply: Future[Verdict],
) -> None:
    """The store has forgotten a session, or cannot; on the store's thread."""
    error = reply.exception()
    answered(error if isinstance(error, CarouselError) else view)
