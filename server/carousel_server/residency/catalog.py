"""All engines of a server, and the way from a session's id to its row; implements `CatalogPort`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

from carousel_server.core.errors import CarouselError, ended, not_served
from carousel_server.core.futures import done, failed, passes, then
from carousel_server.core.ports import EnginePort, Fork, Get, Import, Open, Opened, Place, ask
from carousel_server.core.quotas import Quotas
from carousel_server.core.snapshot_header import fingerprint_of, initial_of
from carousel_server.core.store import ListStored, Read, Record, SessionKey, StorePort, ask_store
from carousel_server.core.types import Durability, OpenSpec, Phase, SessionView

from .activation import Activation
from .directory import Directory


class Catalog:
    """Engines by model name. Any thread."""

    def __init__(
        self,
        directory: Directory,
        engines: Sequence[EnginePort],
        store: StorePort | None = None,
        activation: Activation | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        self.quotas = quotas or Quotas()
        self._directory = directory
        self._engines = {e.model.name: e for e in sorted(engines, key=lambda e: e.model.name)}
        self._store = store
        self._activation = activation

    def engines(self) -> Sequence[EnginePort]:
        """Ordered by model name."""
        return list(self._engines.values())

    @property
    def store_fault(self) -> str | None:
        """See `CatalogPort.store_fault`."""
        return None if self._store is None else self._store.fault

    def engine(self, model: str) -> EnginePort:
        """Raises CarouselError MODEL_NOT_FOUND."""
        found = self._engines.get(model)
        if found is None:
            raise not_served(model, self._engines)
        return found

    def locate(self, tenant: str, session_id: str) -> Place | None:
        """Where a session is, if it is on a row now."""
        found = self._directory.find(tenant, session_id)
        return None if found is None else (self._engines[found[0]], found[1])

    def resume(
        self, tenant: str, session_id: str, epoch_floor: int = 0, take_over: bool = False
    ) -> Future[Place]:
        """See `CatalogPort.resume`."""
        if self._activation is not None:
            key = SessionKey(tenant, session_id)
            return self._activation.resume(key, epoch_floor, take_over=take_over)
        place = self.locate(tenant, session_id)
        if place is None:
            return failed(self._gone(tenant, session_id))
        return done(place)

    def open(self, engine: EnginePort, spec: OpenSpec) -> Opened:
        """See `CatalogPort.open`."""
        if self._activation is None:
            return ask(engine, Open(spec))
        durability = self._durability(spec.durability)
        if durability is Durability.NONE:
            return self._activation.open_unkept(engine, replace(spec, durability=durability))
        return self._activation.open(engine, spec, durability)

    def copy(self, engine: EnginePort, command: Import | Fork) -> Opened:
        """See `CatalogPort.copy`."""
        durability = self._durability(command.spec.durability)
        if self._activation is None or durability is Durability.NONE:
            return ask(engine, command)
        return self._activation.copy(engine, command, durability)

    def discard(self, tenant: str, session_id: str) -> Future[SessionView]:
        """See `CatalogPort.discard`."""
        if self._activation is None:
            return failed(self._gone(tenant, session_id))
        return then(
            self._activation.discard(SessionKey(tenant, session_id)),
            lambda record: done(replace(self._view(record), phase=Phase.CLOSED)),
        )

    def peek(self, tenant: str, session_id: str) -> Future[SessionView]:
        """See `CatalogPort.peek`."""
        place = self.locate(tenant, session_id)
        if place is None:
            return self._read(tenant, session_id)
        engine, ref = place

        def left(error: BaseException) -> Future[SessionView]:
            return self._read(tenant, session_id) if passes(error) else failed(error)

        return then(ask(engine, Get(ref)), done, left)

    def _read(self, tenant: str, session_id: str) -> Future[SessionView]:
        """A session that is on no row, as the store has it."""
        gone = self._gone(tenant, session_id)
        if self._store is None:
            return failed(gone)

        def missing(error: BaseException) -> Future[SessionView]:
            unknown = isinstance(error, CarouselError) and error.reason == "SESSION_NOT_FOUND"
            return failed(gone if unknown else error)

        read = ask_store(self._store, Read(SessionKey(tenant, session_id)))
        return then(read, lambda record: done(self._view(record)), missing)

    def stored(self, tenant: str, after: str, limit: int, model: str) -> Future[list[SessionView]]:
        """See `CatalogPort.stored`."""
        if self._store is None:
            return done([])
        listed = ask_store(self._store, ListStored(tenant, after, limit, model))
        return then(listed, lambda records: done([self._view(record) for record in records]))

    def _gone(self, tenant: str, session_id: str) -> CarouselError:
        return ended(self._directory.why_gone(tenant, session_id), session_id)

    def _durability(self, asked: Durability) -> Durability:
        """What an unspecified durability means here, and whether the store can offer it.

        Raises:
            CarouselError: DURABILITY_UNAVAILABLE.
        """
        if asked is Durability.UNSPECIFIED:
            return Durability.NONE if self._store is None else Durability.ASYNC
        if asked is not Durability.NONE and (
            self._store is None or asked not in self._store.levels
        ):
            offered = sorted(level.name for level in self._store.levels) if self._store else []
            raise CarouselError(
                "DURABILITY_UNAVAILABLE",
                f"this server cannot offer {asked.name}, only {', '.join(['NONE', *offered])}",
                field="durability",
            )
        return asked

    def _view(self, record: Record) -> SessionView:
        """A session of the store as its owner may see it.

        Where another replica holds it, that replica may have run more steps than the store has.
        """
        session, holder = record.session, record.holder
        elsewhere = holder is not None and not holder.is_own
        engine = self._engines.get(session.model)
        # Its state belongs to the weights in its snapshot, whatever is served now. No snapshot, no state.
        served = engine.model.fingerprint if engine else ""
        return SessionView(
            id=record.key.id,
            model=session.model,
            phase=Phase.RESIDENT if elsewhere else Phase.PARKED,
            applied=record.seq,
            ack=0,
            durable=record.seq,
            epoch=record.epoch,
            durability=session.durability,
            idle_ttl_s=session.idle_ttl_s,
            created_at_unix_s=session.created_at_unix_s,
            fingerprint=fingerprint_of(record.head) or served,
            window_steps=engine.model.window_steps if engine else 0,
            seed=session.seed,
            execution_class=engine.model.execution_class if engine else "",
            initial=initial_of(record.head),
            holder=(holder.address or holder.name) if holder and elsewhere else "",
        )
