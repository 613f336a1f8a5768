"""From a session's id to its row: where it is, or how it comes back from the store."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

from carousel_server.core.errors import CarouselError, ended
from carousel_server.core.futures import done, failed, follow, passes, then, tried
from carousel_server.core.ports import (
    Activate,
    Draft,
    EnginePort,
    Export,
    Fork,
    Get,
    Import,
    Open,
    Opened,
    Place,
    ask,
)
from carousel_server.core.store import (
    NO_SNAPSHOT,
    Acquire,
    First,
    Holding,
    NewSession,
    Read,
    Record,
    Release,
    Remove,
    SessionKey,
    StorePort,
    Verdict,
    ask_store,
)
from carousel_server.core.types import Durability, OpenSpec
from carousel_server.rows.snapshot import Snapshot, decode

from .asking import Asking
from .directory import Directory


class Activation:
    """Brings sessions from the store onto rows, each by one hand at a time. Any thread.

    An activation has three steps, each the callback of the one before: the store gives the session to
    this replica in a new epoch (R3), its engine fills a row, the directory knows it. If the engine cannot,
    the session is given back.
    """

    def __init__(
        self,
        directory: Directory,
        engines: Mapping[str, EnginePort],
        store: StorePort,
        asking: Asking,
        *,
        default_idle_ttl_s: float,
        max_idle_ttl_s: float,
    ) -> None:
        self._directory = directory
        self._engines = engines
        self._store = store
        self._asking = asking
        self._default_idle_ttl_s = default_idle_ttl_s
        self._max_idle_ttl_s = max_idle_ttl_s
        self._lock = threading.Lock()
        # Activations that are not over, so that whoever comes meanwhile shares them.
        self._under_way: dict[SessionKey, Future[Place]] = {}

    def resume(
        self,
        key: SessionKey,
        epoch_floor: int = 0,
        new: NewSession | None = None,
        first: Callable[[], Future[First]] = lambda: done(NO_SNAPSHOT),
        *,
        take_over: bool = False,
    ) -> Future[Place]:
        """Where a session is; brings it onto a row if it is in the store, or opens it there as `new`.

        `first` makes the snapshot of a new session that does not begin with the default state. Another
        replica that has the session is asked for it; see `Asking.acquire` for `take_over`.
        """
        with self._lock:
            place = self._directory.find(key.tenant, key.id)
            if place is not None:
                return done((self._engines[place[0]], place[1]))
            under_way = self._under_way.get(key)
            if under_way is None:
                asked = self._under_way[key] = Future()
        if under_way is None:

            def acquire(snapshot: First) -> Future[Activate]:
                lease = self._store.lease_lost
                wanted = Acquire(key, epoch_floor, new, snapshot)
                acquired = self._asking.acquire(wanted, take_over=take_over)
                return then(acquired, lambda given: done(Activate(*given, take_over, lease)))

            return self._activate(key, asked, then(first(), acquire))
        again = partial(self.resume, key, epoch_floor, new, first, take_over=take_over)
        if new is not None:
            # An opening that met another activation asks again when that is over.
            return then(under_way, lambda _: again(), lambda _: again())
        if not take_over:
            return under_way

        def insist(error: BaseException) -> Future[Place]:
            """The other one did not ask for as much."""
            held = isinstance(error, CarouselError) and error.reason == "SESSION_HELD"
            return again() if held else failed(error)

        return then(under_way, done, insist)

    def open(self, engine: EnginePort, spec: OpenSpec, durability: Durability) -> Opened:
        """Opens a session that the store keeps, or finds the one that an earlier try opened."""
        if not engine.model.causal:
            return ask(engine, Open(spec))
        spec = replace(spec, session_id=spec.session_id or secrets.token_urlsafe(12))
        key, new = SessionKey(spec.tenant, spec.session_id), self._new(engine, spec, durability)

        def first() -> Future[First]:
            if not (spec.initial or spec.state):
                return done(NO_SNAPSHOT)
            return then(ask(engine, Draft(spec)), lambda data: done(First(0, data)))

        def open_here(place: Place) -> Opened:
            if place[0].model.name != new.model:
                raise _exists(key, place[0])
            return ask(place[0], Open(spec))

        def resume() -> Future[Place]:
            return self.resume(key, new=new, first=first, take_over=spec.take_over)

        return tried(lambda: then(resume(), open_here), passes)

    def open_unkept(self, engine: EnginePort, spec: OpenSpec) -> Opened:
        """Opens a session that dies with the server, unless the store has one of its name."""
        if not spec.session_id:
            return ask(engine, Open(spec))

        def known(_record: Record) -> Opened:
            message = f"session {spec.session_id!r} is kept in the store: attach to it"
            raise CarouselError("SESSION_EXISTS", message, field="session_id")

        def unknown(error: BaseException) -> Opened:
            if isinstance(error, CarouselError) and error.spec.code.name == "NOT_FOUND":
                return ask(engine, Open(spec))
            return failed(error)

        read = Read(SessionKey(spec.tenant, spec.session_id))
        return then(ask_store(self._store, read), known, unknown)

    def copy(self, engine: EnginePort, command: Import | Fork, durability: Durability) -> Opened:
        """Opens a session that the store keeps from a snapshot or another session.

        The store gets the snapshot in the stroke that opens the session, so it never has one without.
        """
        copy = partial(self._copy, engine, command.spec, durability)
        if isinstance(command, Import):
            return then(done(command.snapshot), copy)
        return then(ask(engine, Export(command.ref)), lambda exported: copy(exported[0]))

    def _copy(
        self, engine: EnginePort, spec: OpenSpec, durability: Durability, data: bytes
    ) -> Opened:
        """Opens a session with a snapshot, if no session of its name is there."""
        key = SessionKey(spec.tenant, spec.session_id or secrets.token_urlsafe(12))
        taken = decode(data)
        _check_weights(engine, taken)
        asked, lease = self._begin_copy(key), self._store.lease_lost
        ttl_s = min(taken.idle_ttl_s, self._max_idle_ttl_s)
        seed = taken.seed if spec.seed is None else spec.seed
        new = NewSession(engine.model.name, durability, ttl_s, seed, self._store.now_unix_s())

        def check_new(record: Record) -> Future[Activate]:
            if record.created:
                return done(Activate(record, lease=lease))
            self._give_back(record)
            raise _exists(key)

        def read(place: Place) -> Opened:
            return then(ask(engine, Get(place[1])), lambda view: done((place[1], view)))

        acquired = ask_store(self._store, Acquire(key, 0, new, First(taken.applied, data)))
        active = self._activate(key, asked, then(acquired, check_new))
        return then(active, read, lambda error: failed(_of_a_copy(error)))

    def _begin_copy(self, key: SessionKey) -> Future[Place]:
        """Claims the name: nobody brings it onto a row meanwhile."""
        with self._lock:
            if key in self._under_way or self._directory.find(key.tenant, key.id) is not None:
                raise _exists(key)
            asked: Future[Place] = Future()
            self._under_way[key] = asked
            return asked

    def discard(self, key: SessionKey) -> Future[Record]:
        """Ends a session in the store, in a new epoch; the record as it was. No engine is asked."""

        def remove(record: Record) -> Future[Record]:
            removed = ask_store(self._store, Remove(key, record.epoch, "SESSION_CLOSED"))
            return then(removed, partial(check, record))

        def check(record: Record, verdict: Verdict) -> Future[Record]:
            if verdict is Verdict.DONE:
                return done(record)
            message = f"session {key.id!r} was taken by another call meanwhile"
            raise CarouselError("SESSION_HELD", message, retry_after_s=1.0)

        return then(ask_store(self._store, Acquire(key)), remove)

    # -- the steps of an activation

    def _activate(
        self, key: SessionKey, asked: Future[Place], acquired: Future[Activate]
    ) -> Future[Place]:
        """Settles `asked` once the session is on a row, or is given back to the store."""

        def fill(command: Activate) -> Future[Place]:
            record = command.record
            engine = self._engines.get(record.session.model)
            if engine is None:
                self._give_back(record)
                raise _not_served(record)
            return then(
                ask(engine, command),
                lambda ref: done((engine, ref)),
                partial(not_filled, record),
            )

        def not_filled(record: Record, error: BaseException) -> Future[Place]:
            self._give_back(record)
            return failed(_of_a_session(error))

        def not_acquired(error: BaseException) -> Future[Place]:
            """A session that no store ever had may have ended here."""
            if isinstance(error, CarouselError) and error.reason == "SESSION_NOT_FOUND":
                return failed(ended(self._directory.why_gone(key.tenant, key.id), key.id))
            return failed(error)

        def over(active: Future[Place]) -> None:
            with self._lock:
                del self._under_way[key]
            follow(asked, active)

        then(acquired, fill, not_acquired).add_done_callback(over)
        return asked

    def _give_back(self, record: Record) -> None:
        """The session stays in the store, as if nobody had asked; one that was just made goes."""
        if record.created:
            ask_store(self._store, Remove(record.key, record.epoch, "SESSION_CLOSED"))
        else:
            held = Holding(record.key, record.epoch, record.last_used_unix_s, record.whole)
            ask_store(self._store, Release([held]))

    def _new(self, engine: EnginePort, spec: OpenSpec, durability: Durability) -> NewSession:
        return NewSession(
            model=engine.model.name,
            durability=durability,
            idle_ttl_s=spec.idle_ttl_s or self._default_idle_ttl_s,
            seed=secrets.randbits(63) if spec.seed is None else spec.seed,
            created_at_unix_s=self._store.now_unix_s(),
        )


def _exists(key: SessionKey, engine: EnginePort | None = None) -> CarouselError:
    where = "" if engine is None else f" on model {engine.model.name!r}"
    return CarouselError("SESSION_EXISTS", f"session {key.id!r} is open{where}", field="session_id")


def _check_weights(engine: EnginePort, taken: Snapshot) -> None:
    """Refuses other weights before anything is opened; the engine checks the rest."""
    model = engine.model
    if not model.causal:
        raise CarouselError(
            "MODEL_NOT_CAUSAL", f"model {model.name!r} cannot run sessions", field="model"
        )
    if taken.fingerprint != model.fingerprint:
        raise CarouselError(
            "FINGERPRINT_MISMATCH",
            f"the snapshot belongs to weights {taken.fingerprint[:12]}… of model {taken.model!r}; "
            f"model {model.name!r} has {model.fingerprint[:12]}…",
            field="snapshot",
        )


def _of_a_copy(error: BaseException) -> BaseException:
    """What is wrong with a snapshot that a caller has sent is his, not the store's."""
    if isinstance(error, CarouselError) and error.reason == "SNAPSHOT_DAMAGED":
        return CarouselError("SNAPSHOT_INVALID", error.message, field="snapshot")
    return error


def _of_a_session(error: BaseException) -> BaseException:
    """What its owner can do about a session of other weights."""
    if isinstance(error, CarouselError) and error.reason == "FINGERPRINT_MISMATCH":
        cure = "serve the package that the session was opened with, or close the session"
        return CarouselError(error.reason, f"{error.message}; {cure}", field="session_id")
    return error


def _not_served(record: Record) -> CarouselError:
    name = record.session.model
    message = f"session {record.key.id!r} belongs to model {name!r}, which is not served here"
    return CarouselError("MODEL_NOT_FOUND", message)
