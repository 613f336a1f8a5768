"""The life of sessions as verbs: open, close, expire; activate, park, hand over, revoke; copy, drain."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from carousel_server.core.context import Context
from carousel_server.core.errors import CarouselError, ended
from carousel_server.core.ports import Activate
from carousel_server.core.replicas import OWNER
from carousel_server.core.store import Holding, Record, Release, Remove, Verdict
from carousel_server.core.types import Durability, OpenSpec, SessionRef, SessionView
from carousel_server.rows.lifecycle import Event
from carousel_server.rows.rows import Rows, Start
from carousel_server.rows.snapshot import Snapshot, decode

from .directory import Directory
from .room import Room
from .waiting_room import WaitingRoom

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 0.05
"""The hint for the clients of a session that moves: about as long as a move takes."""

_ENDINGS = {
    Event.CLOSE: ("SESSION_CLOSED", "closed"),
    Event.EXPIRE: ("SESSION_EXPIRED", "expired"),
}
"""The reason that late commands get, and what the metric calls the ending."""


class Departure(NamedTuple):
    """A session that has left its row for another replica.

    Attributes:
        held: what `Store.release` needs of it.
        tell: notifies its sink. To be called when it is released.
    """

    held: Holding
    tell: Callable[[], None]


Answer = Callable[[SessionView | CarouselError], None]
"""Gets the last view of a session that has ended, or why it could not."""


class Residency:
    """What may happen to a session, beside its steps. Used on the engine's thread only."""

    def __init__(self, context: Context, rows: Rows, directory: Directory) -> None:
        self._model = context.model
        self._limits = context.limits
        self._metrics = context.metrics
        self._store = context.store
        self._rows = rows
        self._directory = directory
        self._room = Room(context, rows, self.park)
        self.waiting_room = WaitingRoom(self._activate, self._room, context.share)

    # -- coming

    def open(self, spec: OpenSpec, now: float) -> tuple[SessionRef, SessionView]:
        """Opens a session with an initial state, or finds the one that an earlier try opened.

        One that a store keeps has been activated before, so it is only found here.

        Raises:
            CarouselError: SESSION_EXISTS, SLAB_FULL, TOO_MANY_SESSIONS, QUOTA_EXCEEDED, DRAINING,
                MODEL_NOT_CAUSAL, DURABILITY_UNAVAILABLE; SESSION_PARKED if it has left again since it was
                activated.
        """
        self._check_open(spec)
        spec = replace(spec, session_id=spec.session_id or secrets.token_urlsafe(12))
        known = self._directory.claim(spec.tenant, spec.session_id, self._model.name)
        if known is not None:
            view = self._same(spec, known)
            self._rows.use(known.row, now)
            return known, view
        if spec.durability > Durability.NONE or (
            spec.durability is Durability.UNSPECIFIED and self._store.levels
        ):
            self._directory.release(spec.tenant, spec.session_id)
            raise ended("SESSION_PARKED", spec.session_id)
        return self._open(spec, spec.idle_ttl_s or self._limits.idle_ttl_s, None, now)

    def restore(
        self, snapshot: Snapshot, spec: OpenSpec, now: float
    ) -> tuple[SessionRef, SessionView]:
        """Opens a session that no store keeps, which goes on where a snapshot of another stands.

        Raises:
            CarouselError: FINGERPRINT_MISMATCH, SNAPSHOT_INVALID, SESSION_EXISTS, or as `open`.
        """
        self._rows.snapshots.check_fits(snapshot)
        self._check_open(spec)
        spec = replace(spec, session_id=spec.session_id or secrets.token_urlsafe(12))
        if spec.seed is None:
            spec = replace(spec, seed=snapshot.seed)
        self._claim(spec)
        return self._open(spec, snapshot.idle_ttl_s, snapshot, now)

    def activate(self, command: Activate, now: float) -> None:
        """Brings a session from the store onto a row, now or when its tenant's turn comes.

        The answer fails with CarouselError SNAPSHOT_DAMAGED, FINGERPRINT_MISMATCH, SESSION_EXISTS,
        SLAB_FULL, TOO_MANY_SESSIONS, QUOTA_EXCEEDED or DRAINING.
        """
        self.waiting_room.enter(command, now)

    # -- going

    def end(self, row: int, event: Event, answer: Answer) -> None:
        """Ends a session for good, and notifies its sink.

        Args:
            row: its row.
            event: CLOSE or EXPIRE.
            answer: called as soon as nothing can bring the session back: the store, if one keeps it, has
                forgotten it too.
        """
        reason, counted = _ENDINGS[event]
        table, key = self._rows.table, self._rows.key(row)
        epoch, tracked = int(table.epoch[row]), table.tracked[row]
        view = self._leave(row, event, ended(reason, key.id))
        self._metrics.ended(counted)
        if not tracked:
            answer(view)
            return
        remove = Remove(key, epoch, reason)
        remove.reply.add_done_callback(partial(_removed, view, answer))
        self._store.submit(remove)

    def close(self, row: int) -> None:
        """Closes a session without a caller who waits for that."""
        self.end(row, Event.CLOSE, _ignore)

    def park(self, row: int, now: float) -> None:
        """Gives up the row of a session that the store has all of."""
        assert self._rows.ledger.is_clean(row), "the store lacks a part of the session"
        self._rows.listeners.park(row, self._rows.view(self._rows.ref(row)))
        release = self._release(row, now)
        self._leave(row, Event.PARK, ended("SESSION_PARKED", self._rows.table.ids[row]))
        self._store.submit(release)
        self._metrics.moved("parked")

    def hand_over(self, row: int, address: str, now: float) -> Departure:
        """Gives up the row of a session that the store has all of, for the replica at `address`.

        The caller releases it in the store.
        """
        assert self._rows.ledger.is_clean(row), "the store lacks a part of the session"
        key, view = self._rows.key(row), self._rows.view(self._rows.ref(row))
        (held,) = self._release(row, now).held
        lost = moved_to(key.id, address)
        tell = self._rows.listeners.hand_over(row, view, address, lost)
        self._leave(row, Event.HAND_OVER, ended("SESSION_PARKED", key.id))
        return Departure(held, tell)

    def revoke(self, row: int, error: CarouselError) -> None:
        """Drops a session that may be another replica's by now. The store gets no request."""
        self._leave(row, Event.REVOKE, error)
        self._metrics.moved("revoked")

    def let_lapse(self, row: int, error: CarouselError, now: float) -> None:
        """Drops a session because the leases ran out, and releases it in the store.

        The leases will be renewed. Without the release, the store would hold the session for a replica that
        does not have it.
        """
        release = self._release(row, now)
        self.revoke(row, error)
        self._store.submit(release)

    def expire(self, now: float) -> None:
        """Ends the sessions that were idle for too long."""
        for row in self._rows.expired(now).tolist():
            self.end(row, Event.EXPIRE, _ignore)

    def park_idle(self, now: float) -> None:
        """Parks the sessions that were idle for park_after_s."""
        if self._rows.ledger.tracked:
            idle = now - self._rows.table.last_used_s >= self._limits.park_after_s
            for row in np.flatnonzero(self._room.parkable() & idle).tolist():
                self.park(row, now)

    def take(self, ref: SessionRef) -> Snapshot:
        """A session between two steps; steps that wait are not part of it.

        Raises:
            CarouselError: SESSION_BUSY while it generates, or why the session is not there.
        """
        row = self._rows.row_of(ref)
        if self._rows.table.generating[row]:
            raise CarouselError("SESSION_BUSY", "the session is generating")
        return self._rows.snapshots.take([row])[0]

    def draft(self, spec: OpenSpec) -> Snapshot:
        """The first snapshot of a session that is about to be opened.

        Raises:
            CarouselError: MODEL_NOT_CAUSAL, DURABILITY_UNAVAILABLE or DRAINING.
        """
        self._check_open(spec)
        return self._rows.snapshots.draft(spec)

    def refuse_if_draining(self) -> None:
        """Raises CarouselError DRAINING once the server is shutting down: nothing new begins."""
        if self._rows.draining:
            raise CarouselError(
                "DRAINING", "the server is shutting down", retry_after_s=self._limits.retry_after_s
            )

    # -- onto a row and off it

    def _open(
        self, spec: OpenSpec, idle_ttl_s: float, snapshot: Snapshot | None, now: float
    ) -> tuple[SessionRef, SessionView]:
        """Opens a session that no store keeps, whose id has been claimed."""
        spec = replace(
            spec,
            durability=Durability.NONE,
            idle_ttl_s=min(idle_ttl_s, self._limits.max_idle_ttl_s),
            seed=secrets.randbits(63) if spec.seed is None else spec.seed,
        )
        epoch = 1 if snapshot is None else snapshot.epoch + 1
        start = Start(spec, self._store.now_unix_s(), epoch, _of_a_copy(snapshot))
        ref = self._begin(start, now)
        self._metrics.opened()
        return ref, self._rows.view(ref)

    def _activate(self, command: Activate, now: float) -> SessionRef:
        """Brings a session onto a row, in the record's epoch."""
        record = command.record
        key, opened = record.key, record.session
        if command.lease != self._store.lease_lost or now > self._store.lease_until_s:
            # The lease under which it was acquired is over (R5), so it must be asked for again.
            raise ended("SESSION_PARKED", key.id)
        snapshot = self._read(record)
        self.refuse_if_draining()
        spec = OpenSpec(key.tenant, key.id, opened.durability, opened.idle_ttl_s, opened.seed)
        if record.created:
            snapshot = _of_a_copy(snapshot)
        self._claim(spec)
        start = Start(spec, opened.created_at_unix_s, record.epoch, snapshot, record.whole)
        ref = self._begin(start, now, newcomers=False)
        if record.created:
            self._metrics.opened()
        else:
            self._metrics.moved("resumed")
        return ref

    def _claim(self, spec: OpenSpec) -> None:
        """Claims an id that is not open here."""
        if self._directory.claim(spec.tenant, spec.session_id, self._model.name) is not None:
            raise CarouselError(
                "SESSION_EXISTS", f"session {spec.session_id!r} is open already", field="session_id"
            )

    def _begin(self, start: Start, now: float, *, newcomers: bool = True) -> SessionRef:
        """Puts a session whose id has been claimed onto a row; gives up the claim if there is none."""
        tenant, session_id = start.spec.tenant, start.spec.session_id
        try:
            self._room.claim(tenant, now, newcomers=newcomers)
        except CarouselError:
            self._directory.release(tenant, session_id)
            raise
        ref = self._rows.begin(start, now)
        self._directory.settle(tenant, session_id, ref)
        return ref

    def _leave(self, row: int, event: Event, error: CarouselError) -> SessionView:
        """Takes a session off its row; its sink gets `error`."""
        table = self._rows.table
        tenant, session_id = self._rows.key(row)
        # What a store keeps is asked there: another replica may have it, or have ended it, by now.
        remembered = "" if table.tracked[row] else error.reason
        view = self._rows.leave(row, event, error)
        self._directory.release(tenant, session_id, remembered)
        self._room.free(tenant)
        return view

    def _release(self, row: int, now: float) -> Release:
        table = self._rows.table
        used_s = self._store.now_unix_s() - (now - float(table.last_used_s[row]))
        whole = row not in table.incomplete and self._rows.ledger.is_clean(row)
        return Release([Holding(self._rows.key(row), int(table.epoch[row]), used_s, whole)])

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
            self._rows.snapshots.check_fits(snapshot)
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

    def _check_open(self, spec: OpenSpec) -> None:
        self.refuse_if_draining()
        if not self._model.causal:
            raise CarouselError(
                "MODEL_NOT_CAUSAL",
                f"model {self._model.name!r} is not causal: each output depends on later inputs, "
                "so it cannot stream; send whole sequences with Infer",
                field="model",
            )
        if spec.durability > Durability.NONE and not self._store.levels:
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
            or (spec.initial and spec.initial != view.initial)
        ):
            raise CarouselError(
                "SESSION_EXISTS",
                f"session {view.id!r} is open with another seed, idle_ttl, durability or initial state",
                field="session_id",
            )
        return view


def _of_a_copy(snapshot: Snapshot | None) -> Snapshot | None:
    """Without the attach_id, which says who has bound the original."""
    return None if snapshot is None else replace(snapshot, attach_id=0)


def moved_to(session_id: str, address: str) -> CarouselError:
    """LEASE_LOST for those who cannot be told Moved. Its metadata `owner` names the next holder, if known."""
    return CarouselError(
        "LEASE_LOST",
        f"session {session_id!r} moves to another replica",
        metadata={OWNER: address} if address else None,
        retry_after_s=_RETRY_AFTER_S,
    )


def _ignore(_answer: SessionView | CarouselError) -> None:
    """Stands for a caller where there is none."""


def _removed(view: SessionView, answer: Answer, reply: Future[Verdict]) -> None:
    """The store has forgotten a session, or cannot; on the store's thread."""
    error = reply.exception()
    answer(error if isinstance(error, CarouselError) else view)
