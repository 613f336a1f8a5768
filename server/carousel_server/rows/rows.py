"""Who is on which row: the one place where a row gets or loses its session."""

from __future__ import annotations

import heapq

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import SessionKey
from carousel_server.core.types import ModelView, OpenSpec, Phase, SessionRef, SessionView
from carousel_server.engine.generation import Generations
from carousel_server.residency.directory import Directory

from .delivery import Delivery
from .ledger import Ledger
from .lifecycle import Event
from .room import MakeRoom, Room
from .slab import Slab
from .slots import Slots
from .table import SessionTable


class Rows:
    """Gives rows out, zeroed, and takes them back. Used on the engine's thread only."""

    def __init__(
        self,
        model: ModelView,
        room: Room,
        table: SessionTable,
        slots: Slots,
        slab: Slab,
        directory: Directory,
        ledger: Ledger,
        delivery: Delivery,
        generations: Generations,
    ) -> None:
        self._model = model
        self._room = room
        self._table = table
        self._slots = slots
        self._slab = slab
        self._directory = directory
        self._ledger = ledger
        self._delivery = delivery
        self._generations = generations

    # -- reading

    def is_live(self, ref: SessionRef) -> bool:
        """True while the session that `ref` names is on its row."""
        return self._slots.is_live(ref)

    def row_of(self, ref: SessionRef) -> int:
        """The row of a live session.

        Raises:
            CarouselError: SESSION_EXPIRED, SESSION_CLOSED, SESSION_PARKED, LEASE_LOST or
                SESSION_NOT_FOUND.
        """
        if not self._slots.is_live(ref):
            raise self._table.why_gone(ref)
        return ref.row

    def ref(self, row: int) -> SessionRef:
        """The session that is on a row now."""
        return SessionRef(int(row), int(self._slots.generation[row]))

    def key(self, row: int) -> SessionKey:
        """Its name at the store."""
        return SessionKey(self._table.tenants[row], self._table.ids[row])

    def view(self, ref: SessionRef) -> SessionView:
        """A live session as its owner may see it."""
        self.row_of(ref)
        return self._table.view(ref, self._model)

    def views(self, tenant: str, after: str, limit: int) -> list[SessionView]:
        """A tenant's sessions in the order of their ids: the `limit` first ones behind `after`."""
        ids = self._table.ids
        rows = (row for row in self._table.rows_of(tenant) if ids[row] > after)
        page = heapq.nsmallest(limit, rows, key=ids.__getitem__)
        return [self._table.view(self.ref(row), self._model) for row in page]

    # -- coming and going

    def begin(
        self,
        spec: OpenSpec,
        *,
        idle_ttl_s: float,
        seed: int,
        created_at_unix_s: float,
        now: float,
        make_room: MakeRoom,
    ) -> SessionRef:
        """Puts a session whose id has been claimed onto a zeroed row.

        `make_room` frees a row, if it can, where the tenant may have no more or none is free.

        Raises:
            CarouselError: TOO_MANY_SESSIONS, QUOTA_EXCEEDED or SLAB_FULL; the claim is given up.
        """
        try:
            ref = self._room.allocate(spec.tenant, make_room)
        except CarouselError:
            self._directory.release(spec.tenant, spec.session_id)
            raise
        self._slab.zero(ref.row)
        self._generations.reset(ref.row)
        self._table.open(
            ref.row,
            spec,
            seed=seed,
            idle_ttl_s=idle_ttl_s,
            now=now,
            created_at_unix_s=created_at_unix_s,
        )
        self._table.advance(ref.row, Event.OPENED)
        self._directory.settle(spec.tenant, spec.session_id, ref)
        return ref

    def leave(self, row: int, event: Event, error: CarouselError) -> SessionView:
        """Takes a session off its row, however that comes; `error` is told to whoever listens."""
        ref, tenant = self.ref(row), self._table.tenants[row]
        self._generations.leave(row, error)
        self._table.drop_pending(row)
        self._table.advance(row, event)
        view = self._table.view(ref, self._model)
        self._delivery.unbind(row, error)
        self._ledger.end(row, error)
        # What a store keeps is asked there: another replica may have it, or have ended it, by now.
        remembered = "" if self._table.tracked[row] else error.reason
        self._directory.release(tenant, view.id, remembered)
        self._table.close(ref, error.reason)
        self._slab.zero(row)
        self._room.free(ref, tenant)
        return view

    def check_integrity(self) -> None:
        """Asserts that slots, table, ledger and counts agree on who is there."""
        free = self._table.in_phase(Phase.CLOSED)
        assert (free != self._slots.taken).all(), "table and slots disagree on who is there"
        self._slots.check_integrity()
        self._table.check_integrity(self._model.window_steps)
        self._ledger.check_integrity()
        self._generations.check_integrity()
