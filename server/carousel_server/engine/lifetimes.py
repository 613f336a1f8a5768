"""Opens and ends sessions, and moves them in and out as snapshots."""

from __future__ import annotations

import heapq
import secrets
import time
from collections import Counter

import numpy as np

from carousel_server.core.errors import CarouselError
from carousel_server.core.limits import EngineLimits
from carousel_server.core.ports import EngineMetrics
from carousel_server.core.types import (
    Durability,
    ModelView,
    OpenSpec,
    Phase,
    SessionRef,
    SessionView,
)
from carousel_server.sessions import Directory, Event, SessionTable, Window
from carousel_server.sessions.directory import ended
from carousel_server.state.slab import Slab
from carousel_server.state.slots import Slots
from carousel_server.state.snapshot import Snapshot

from .delivery import Delivery
from .generation import Generations
from .values import valid_rows


class Lifetimes:
    """The one place where a row gets or loses its session. Used on the engine's thread only."""

    def __init__(
        self,
        model: ModelView,
        limits: EngineLimits,
        table: SessionTable,
        slots: Slots,
        slab: Slab,
        window: Window,
        directory: Directory,
        delivery: Delivery,
        generations: Generations,
        metrics: EngineMetrics,
    ) -> None:
        self._model = model
        self._limits = limits
        self._table = table
        self._slots = slots
        self._slab = slab
        self._window = window
        self._directory = directory
        self._delivery = delivery
        self._generations = generations
        self._metrics = metrics
        self._per_tenant: Counter[str] = Counter()
        # True once the server is shutting down: nothing new begins.
        self.draining = False

    def is_live(self, ref: SessionRef) -> bool:
        """True while the session that `ref` names is open."""
        return self._slots.is_live(ref)

    def row_of(self, ref: SessionRef) -> int:
        """The row of a live session.

        Raises:
            CarouselError: SESSION_EXPIRED, SESSION_CLOSED or SESSION_NOT_FOUND.
        """
        if not self._slots.is_live(ref):
            raise self._table.why_gone(ref)
        return ref.row

    def view(self, ref: SessionRef) -> SessionView:
        """A live session as its owner may see it."""
        self.row_of(ref)
        return self._table.view(ref, self._model)

    def views(self, tenant: str, after: str, limit: int) -> list[SessionView]:
        """A tenant's sessions in the order of their ids: the `limit` first ones behind `after`."""
        ids = self._table.ids
        rows = (row for row in self._table.rows_of(tenant) if ids[row] > after)
        page = heapq.nsmallest(limit, rows, key=ids.__getitem__)
        return [self._table.view(self._ref(row), self._model) for row in page]

    def open(self, spec: OpenSpec, now: float) -> tuple[SessionRef, SessionView]:
        """Opens a session with a zero state, or finds the one that an earlier try opened.

        Raises:
            CarouselError: SESSION_EXISTS, SLAB_FULL, TOO_MANY_SESSIONS, DRAINING, MODEL_NOT_CAUSAL,
                DURABILITY_UNAVAILABLE.
        """
        self._check_open(spec)
        session_id = spec.session_id or secrets.token_urlsafe(12)
        known = self._directory.claim(spec.tenant, session_id, self._model.name)
        if known is not None:
            view = self._same(spec, known)
            self._table.last_used_s[known.row] = now
            return known, view
        try:
            ref = self._allocate(spec.tenant)
        except CarouselError:
            self._directory.release(spec.tenant, session_id)
            raise
        row = ref.row
        self._slab.zero(row)
        self._generations.reset(row)
        self._table.open(
            row,
            OpenSpec(spec.tenant, session_id),
            seed=secrets.randbits(63) if spec.seed is None else spec.seed,
            idle_ttl_s=min(spec.idle_ttl_s or self._limits.idle_ttl_s, self._limits.max_idle_ttl_s),
            now=now,
            now_unix_s=time.time(),
        )
        self._table.advance(row, Event.OPENED)
        self._per_tenant[spec.tenant] += 1
        self._directory.settle(spec.tenant, session_id, ref)
        self._metrics.opened()
        return ref, self._table.view(ref, self._model)

    def end(self, row: int, event: Event) -> SessionView:
        """Ends a session: tells whoever listens, zeroes the row and frees it. Returns its last view."""
        expired = event is Event.EXPIRE
        error = ended("SESSION_EXPIRED" if expired else "SESSION_CLOSED", self._table.ids[row])
        if self._table.generating[row]:
            self._generations.end(row, error)
        ref, tenant = self._ref(row), self._table.tenants[row]
        self._table.drop_pending(row)
        self._table.advance(row, event)
        view = self._table.view(ref, self._model)
        self._delivery.unbind(row, error)
        self._directory.release(tenant, view.id, error.reason)
        self._table.close(ref, error.reason)
        self._slab.zero(row)
        self._slots.free(ref)
        self._per_tenant[tenant] -= 1
        if not self._per_tenant[tenant]:
            del self._per_tenant[tenant]
        self._metrics.ended("expired" if expired else "closed")
        return view

    def expire(self, now: float) -> None:
        """Ends the sessions that were idle for too long."""
        for row in self._table.expired(now).tolist():
            self.end(row, Event.EXPIRE)

    def drain(self) -> None:
        """Begins nothing new from now on."""
        self.draining = True
        for row in np.flatnonzero(self._table.phase == Phase.RESIDENT).tolist():
            self._table.advance(row, Event.DRAIN)

    def take(self, ref: SessionRef) -> Snapshot:
        """A session between two steps; steps that wait are not part of it.

        Raises:
            CarouselError: SESSION_BUSY while it generates, or why the session is not there.
        """
        row = self.row_of(ref)
        if self._table.generating[row]:
            raise CarouselError("SESSION_BUSY", "the session is generating")
        applied, ack = int(self._table.applied[row]), int(self._table.ack[row])
        at = np.asarray([row]), np.asarray([ack + 1])
        recent = self._generations.recent[row]
        return Snapshot(
            model=self._model.name,
            fingerprint=self._model.fingerprint,
            epoch=int(self._table.epoch[row]),
            applied=applied,
            ack=ack,
            seed=int(self._table.seed[row]),
            next_token=int(self._generations.next_token[row]),
            idle_ttl_s=float(self._table.idle_ttl_s[row]),
            state=self._slab.take(row),
            recent_tokens=tuple(recent[recent >= 0].tolist()),
            kept_inputs=self._window.read_inputs(*at, applied - ack)[0],
            kept_outputs=self._window.read_outputs(row, ack + 1, applied - ack),
        )

    def restore(
        self, snapshot: Snapshot, spec: OpenSpec, now: float
    ) -> tuple[SessionRef, SessionView]:
        """Opens a session that goes on where a snapshot stands.

        Raises:
            CarouselError: FINGERPRINT_MISMATCH, SNAPSHOT_INVALID, SESSION_EXISTS, or as `open`.
        """
        self._check_fits(snapshot)
        if spec.session_id:
            self._check_unused(spec)
        seed = snapshot.seed if spec.seed is None else spec.seed
        ref, _ = self.open(
            OpenSpec(spec.tenant, spec.session_id, spec.durability, snapshot.idle_ttl_s, seed), now
        )
        row, kept = ref.row, snapshot.applied - snapshot.ack
        self._slab.restore(row, snapshot.state)
        self._table.set_cursors(
            row, applied=snapshot.applied, ack=snapshot.ack, epoch=snapshot.epoch + 1
        )
        if kept:
            rows, firsts = np.asarray([row]), np.asarray([snapshot.ack + 1])
            never = np.full(1, np.inf)
            self._window.write_inputs(rows, firsts, snapshot.kept_inputs[None], never, never)
            self._window.write_outputs(rows, firsts, snapshot.kept_outputs[None])
        self._generations.restore(row, snapshot.next_token, snapshot.recent_tokens)
        return ref, self._table.view(ref, self._model)

    def check_integrity(self) -> None:
        """Asserts that slots, table and counts agree on who is there."""
        is_open = self._table.phase != Phase.CLOSED
        assert (is_open == self._slots.taken).all(), "table and slots disagree on who is there"
        assert sum(self._per_tenant.values()) == self._slots.used, "the count per tenant is off"
        self._slots.check_integrity()
        self._table.check_integrity(self._window.steps)
        self._generations.check_integrity()

    def _ref(self, row: int) -> SessionRef:
        return SessionRef(int(row), int(self._slots.generation[row]))

    def _allocate(self, tenant: str) -> SessionRef:
        limits = self._limits
        if self._per_tenant[tenant] >= limits.sessions_per_tenant:
            raise CarouselError(
                "TOO_MANY_SESSIONS",
                f"{limits.sessions_per_tenant} sessions are open (sessions_per_tenant)",
                retry_after_s=limits.retry_after_s,
            )
        ref = self._slots.allocate()
        if ref is None:
            raise CarouselError(
                "SLAB_FULL",
                f"all {limits.slots} slots of model {self._model.name!r} are taken",
                metadata={"slots": limits.slots},
                retry_after_s=limits.retry_after_s,
            )
        return ref

    def _check_open(self, spec: OpenSpec) -> None:
        if self.draining:
            raise CarouselError(
                "DRAINING", "the server is shutting down", retry_after_s=self._limits.retry_after_s
            )
        if not self._model.causal:
            raise CarouselError(
                "MODEL_NOT_CAUSAL",
                f"model {self._model.name!r} is bidirectional: each output depends on later inputs, "
                "so it cannot stream; send whole sequences with Infer",
                field="model",
            )
        if spec.durability not in (Durability.UNSPECIFIED, Durability.NONE):
            raise CarouselError(
                "DURABILITY_UNAVAILABLE",
                f"this server has no store, so it cannot offer {spec.durability.name}",
                field="durability",
            )

    def _same(self, spec: OpenSpec, ref: SessionRef) -> SessionView:
        """The open session that a repeated open means, if its settings agree."""
        view = self._table.view(ref, self._model)
        if (spec.seed is not None and spec.seed != view.seed) or (
            spec.idle_ttl_s and min(spec.idle_ttl_s, self._limits.max_idle_ttl_s) != view.idle_ttl_s
        ):
            raise CarouselError(
                "SESSION_EXISTS",
                f"session {view.id!r} is open with another seed or idle_ttl",
                field="session_id",
            )
        return view

    def _check_unused(self, spec: OpenSpec) -> None:
        """An import or fork into an open session would overwrite its state."""
        try:
            self._directory.locate(spec.tenant, spec.session_id)
        except CarouselError:
            return
        raise CarouselError(
            "SESSION_EXISTS", f"session {spec.session_id!r} is open already", field="session_id"
        )

    def _check_fits(self, snapshot: Snapshot) -> None:
        if snapshot.fingerprint != self._model.fingerprint:
            raise CarouselError(
                "FINGERPRINT_MISMATCH",
                f"the snapshot belongs to weights {snapshot.fingerprint[:12]}… of model "
                f"{snapshot.model!r}; model {self._model.name!r} has {self._model.fingerprint[:12]}…",
                field="snapshot",
            )
        layout = {name: (a.shape, a.dtype.str) for name, a in snapshot.state.items()}
        fits = (
            layout == self._slab.layout()
            and snapshot.applied - snapshot.ack <= self._window.steps
            and snapshot.kept_inputs.shape[1] == self._model.input_row_bytes
            and snapshot.kept_outputs.shape[1] == self._model.output_row_bytes
            and snapshot.next_token < max(self._model.vocabulary, 1)
            and all(0 <= token < self._model.vocabulary for token in snapshot.recent_tokens)
            and valid_rows(self._model, snapshot.kept_inputs).all()
        )
        if not fits:
            raise CarouselError(
                "SNAPSHOT_INVALID",
                "its tensors, window or tokens do not fit this model and its settings",
                field="snapshot",
            )
