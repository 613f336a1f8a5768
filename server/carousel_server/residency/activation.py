"""From a session's id to its row: where it is, or how it comes back from the store."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

from carousel_server.core.errors import CarouselError, ended
from carousel_server.core.ports import (
    Activate,
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
    Acquire,
    First,
    NewSession,
    Read,
    Record,
    Release,
    Remove,
    SessionKey,
    StorePort,
    Verdict,
)
from carousel_server.core.types import Durability, OpenSpec, SessionRef, SessionView
from carousel_server.rows.snapshot import Snapshot, decode

from .directory import Directory

_MOST_TRIES = 4
"""A session may be parked again, by the slab's pressure, before the opening that fetched it is done."""


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
        *,
        default_idle_ttl_s: float,
        max_idle_ttl_s: float,
    ) -> None:
        self._directory = directory
        self._engines = engines
        self._store = store
        self._default_idle_ttl_s = default_idle_ttl_s
        self._max_idle_ttl_s = max_idle_ttl_s
        self._lock = threading.Lock()
        # Activations that are not over, so that whoever comes meanwhile shares them.
        self._under_way: dict[SessionKey, Future[Place]] = {}

    def resume(
        self, key: SessionKey, epoch_floor: int = 0, new: NewSession | None = None
    ) -> Future[Place]:
        """Where a session is; brings it onto a row if it is in the store, or opens it there as `new`."""
        with self._lock:
            place = self._directory.find(key.tenant, key.id)
            if place is not None:
                found: Future[Place] = Future()
                found.set_result((self._engines[place[0]], place[1]))
                return found
            under_way = self._under_way.get(key)
            if under_way is None:
                asked: Future[Place] = Future()
                self._under_way[key] = asked
            elif new is None:
                return under_way
        if under_way is not None:
            return self._after(under_way, key, epoch_floor, new)
        acquire = Acquire(key, epoch_floor, new)
        acquire.reply.add_done_callback(partial(self._acquired, key, asked))
        self._submit(acquire)
        return asked

    def open(self, engine: EnginePort, spec: OpenSpec, durability: Durability) -> Opened:
        """Opens a session that the store keeps, or finds the one that an earlier try opened."""
        spec = replace(spec, session_id=spec.session_id or secrets.token_urlsafe(12))
        if not engine.model.causal:
            return ask(engine, Open(spec))
        opened: Opened = Future()
        self._open(spec, self._new(engine, spec, durability), opened, tries=_MOST_TRIES)
        return opened

    def _open(self, spec: OpenSpec, new: NewSession, opened: Opened, tries: int) -> None:
        """Finds the session, then asks its engine; again if it was parked in between."""
        key = SessionKey(spec.tenant, spec.session_id)

        def answer(reply: Opened) -> None:
            error = reply.exception()
            parked = isinstance(error, CarouselError) and error.reason == "SESSION_PARKED"
            if parked and tries > 1:
                self._open(spec, new, opened, tries - 1)
            else:
                _pass_on(reply, opened)

        def find(place: Future[Place]) -> None:
            if (error := place.exception()) is not None:
                opened.set_exception(error)
                return
            engine = place.result()[0]
            if engine.model.name != new.model:
                opened.set_exception(_exists(key, engine))
                return
            ask(engine, Open(spec)).add_done_callback(answer)

        self.resume(key, new=new).add_done_callback(find)

    def open_unkept(self, engine: EnginePort, spec: OpenSpec) -> Opened:
        """Opens a session that dies with the server, unless the store has one of its name."""
        command = Open(spec)
        if not spec.session_id:
            return ask(engine, command)

        def unknown(reply: Future[Record]) -> None:
            error = reply.exception()
            if error is None:
                message = f"session {spec.session_id!r} is kept in the store: attach to it"
                taken = CarouselError("SESSION_EXISTS", message, field="session_id")
                command.reply.set_exception(taken)
            elif isinstance(error, CarouselError) and error.spec.code.name == "NOT_FOUND":
                ask(engine, command)
            else:
                command.reply.set_exception(error)

        read = Read(SessionKey(spec.tenant, spec.session_id))
        read.reply.add_done_callback(unknown)
        self._submit(read)
        return command.reply

    def copy(self, engine: EnginePort, command: Import | Fork, durability: Durability) -> Opened:
        """Opens a session that the store keeps from a snapshot or another session.

        The store gets the snapshot in the stroke that opens the session, so it never has one without.
        """
        if isinstance(command, Import):
            self._copy(engine, command, command.snapshot, durability)
            return command.reply

        def exported(reply: Future[tuple[bytes, SessionView]]) -> None:
            if (error := reply.exception()) is not None:
                command.reply.set_exception(error)
            else:
                self._copy(engine, command, reply.result()[0], durability)

        ask(engine, Export(command.ref)).add_done_callback(exported)
        return command.reply

    def _copy(
        self, engine: EnginePort, command: Import | Fork, data: bytes, durability: Durability
    ) -> None:
        """Opens a session with a snapshot, if no session of its name is there."""
        spec, opened = command.spec, command.reply
        key = SessionKey(spec.tenant, spec.session_id or secrets.token_urlsafe(12))
        try:
            taken = decode(data)
            _check_weights(engine, taken)
            asked = self._begin_copy(key)
        except CarouselError as error:
            opened.set_exception(error)
            return
        ttl_s = min(taken.idle_ttl_s, self._max_idle_ttl_s)
        seed = taken.seed if spec.seed is None else spec.seed
        new = NewSession(engine.model.name, durability, ttl_s, seed, self._store.now_unix_s())

        def acquired(reply: Future[Record]) -> None:
            if reply.exception() is None and not reply.result().created:
                self._give_back(reply.result())
                self._over(key, asked, _exists(key))
            else:
                self._acquired(key, asked, reply)

        def settled(reply: Future[Place]) -> None:
            if (error := reply.exception()) is not None:
                opened.set_exception(_of_a_copy(error))
                return
            ref = reply.result()[1]
            ask(engine, Get(ref)).add_done_callback(partial(_settle_copy, opened, ref))

        asked.add_done_callback(settled)
        acquire = Acquire(key, 0, new, First(taken.applied, data))
        acquire.reply.add_done_callback(acquired)
        self._submit(acquire)

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
        done: Future[Record] = Future()

        def removed(record: Record, reply: Future[Verdict]) -> None:
            if (error := reply.exception()) is not None:
                done.set_exception(error)
            elif reply.result() is Verdict.DONE:
                done.set_result(record)
            else:
                message = f"session {key.id!r} was taken by another call meanwhile"
                done.set_exception(CarouselError("SESSION_HELD", message, retry_after_s=1.0))

        def acquired(reply: Future[Record]) -> None:
            if (error := reply.exception()) is not None:
                done.set_exception(error)
                return
            record = reply.result()
            remove = Remove(key, record.epoch, "SESSION_CLOSED")
            remove.reply.add_done_callback(partial(removed, record))
            self._submit(remove)

        acquire = Acquire(key)
        acquire.reply.add_done_callback(acquired)
        self._submit(acquire)
        return done

    # -- the steps of an activation

    def _acquired(self, key: SessionKey, asked: Future[Place], reply: Future[Record]) -> None:
        """The store has answered; on its thread."""
        if (error := reply.exception()) is not None:
            self._over(key, asked, self._explained(key, error))
            return
        record = reply.result()
        engine = self._engines.get(record.session.model)
        if engine is None:
            self._give_back(record)
            name = record.session.model
            missing = f"session {key.id!r} belongs to model {name!r}, which is not served here"
            self._over(key, asked, CarouselError("MODEL_NOT_FOUND", missing))
            return
        activated = ask(engine, Activate(record))
        activated.add_done_callback(partial(self._activated, asked, engine, record))

    def _activated(
        self, asked: Future[Place], engine: EnginePort, record: Record, reply: Future[SessionRef]
    ) -> None:
        """The engine has answered; on its thread."""
        if (error := reply.exception()) is not None:
            self._give_back(record)
            self._over(record.key, asked, _of_a_session(error))
            return
        self._over(record.key, asked, (engine, reply.result()))

    def _over(self, key: SessionKey, asked: Future[Place], result: Place | BaseException) -> None:
        with self._lock:
            del self._under_way[key]
        if isinstance(result, BaseException):
            asked.set_exception(result)
        else:
            asked.set_result(result)

    def _after(
        self,
        under_way: Future[Place],
        key: SessionKey,
        epoch_floor: int,
        new: NewSession | None,
    ) -> Future[Place]:
        """An opening that met another activation: it asks again when that is over."""
        asked: Future[Place] = Future()

        def again(_: Future[Place]) -> None:
            resumed = self.resume(key, epoch_floor, new)
            resumed.add_done_callback(lambda reply: _pass_on(reply, asked))

        under_way.add_done_callback(again)
        return asked

    def _give_back(self, record: Record) -> None:
        """The session stays in the store, as if nobody had asked; one that was just made goes."""
        if record.created:
            self._submit(Remove(record.key, record.epoch, "SESSION_CLOSED"))
        else:
            self._submit(Release([(record.key, record.epoch, record.last_used_unix_s)]))

    def _explained(self, key: SessionKey, error: BaseException) -> BaseException:
        """A session that no store ever had may have ended here."""
        if isinstance(error, CarouselError) and error.reason == "SESSION_NOT_FOUND":
            return ended(self._directory.why_gone(key.tenant, key.id), key.id)
        return error

    def _new(self, engine: EnginePort, spec: OpenSpec, durability: Durability) -> NewSession:
        return NewSession(
            model=engine.model.name,
            durability=durability,
            idle_ttl_s=spec.idle_ttl_s or self._default_idle_ttl_s,
            seed=secrets.randbits(63) if spec.seed is None else spec.seed,
            created_at_unix_s=self._store.now_unix_s(),
        )

    def _submit(self, request: Any) -> None:
        """Asks the store; a refusal at its door is the answer."""
        try:
            self._store.submit(request)
        except CarouselError as error:
            request.reply.set_exception(error)


def _pass_on(reply: Future[Any], target: Future[Any]) -> None:
    """Settles `target` as `reply` is settled."""
    if (error := reply.exception()) is not None:
        target.set_exception(error)
    else:
        target.set_result(reply.result())


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


def _settle_copy(opened: Opened, ref: SessionRef, view: Future[SessionView]) -> None:
    if (error := view.exception()) is not None:
        opened.set_exception(error)
    else:
        opened.set_result((ref, view.result()))
