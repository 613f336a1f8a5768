"""Sessions of other replicas: how one is asked for, and how this replica answers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial

from carousel_server.core.futures import done, failed, then
from carousel_server.core.moves import Handed, HandOver
from carousel_server.core.ports import EnginePort, ask
from carousel_server.core.store import (
    Acquire,
    Asked,
    AskFor,
    Held,
    Keep,
    Record,
    SessionKey,
    StorePort,
    ask_store,
)

from .directory import Directory

_FIRST_PAUSE_S = 0.02
"""Before a holder is tried again; it doubles each time. A holder looks for requests every 0.05 s."""

_ASK_EVERY_S = 0.3
"""A request is lost where the session is only on its way to a row of the holder. So it is repeated."""


class Asking:
    """Acquires sessions, and asks their holders for them. Any thread."""

    def __init__(
        self, store: StorePort, most_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`most_s`: how long a holder is waited for."""
        self._store = store
        self._most_s = most_s
        self._clock = clock

    def acquire(self, acquire: Acquire, *, take_over: bool) -> Future[tuple[Record, bool]]:
        """The session, and True if its holder has released it because it was asked.

        `take_over`: the holder releases it even if a stream has it.

        The future fails as `Store.acquire`: with SESSION_HELD if the holder keeps it, or does not answer
        within `most_s`.
        """
        return _Attempt(self._store, acquire, take_over, self._clock, self._most_s).run()


class _Attempt:
    """One session that is asked for, over all tries."""

    def __init__(
        self,
        store: StorePort,
        acquire: Acquire,
        take_over: bool,
        clock: Callable[[], float],
        most_s: float,
    ) -> None:
        self._store = store
        self._acquire = acquire
        self._take_over = take_over
        self._clock = clock
        self._until_s = clock() + most_s
        self._pause_s = _FIRST_PAUSE_S
        # The holder that was asked last, and when it is asked again; "" before that.
        self._holder, self._ask_again_s = "", math.inf

    def run(self) -> Future[tuple[Record, bool]]:
        """Tries now."""
        wanted = self._acquire
        again = Acquire(wanted.key, wanted.epoch_floor, wanted.new, wanted.first)
        return then(ask_store(self._store, again), self._acquired, self._refused)

    def _acquired(self, record: Record) -> Future[tuple[Record, bool]]:
        return done((record, bool(self._holder)))

    def _refused(self, error: BaseException) -> Future[tuple[Record, bool]]:
        if not isinstance(error, Held) or self._clock() >= self._until_s:
            return failed(error)
        if error.kept and not self._take_over:
            return failed(error)
        asked: Future[None] = done(None)
        now = self._clock()
        if error.holder != self._holder or now >= self._ask_again_s:
            self._holder, self._ask_again_s = error.holder, now + _ASK_EVERY_S
            key = self._acquire.key
            asked = ask_store(self._store, AskFor(key, error.holder, self._take_over))
        return then(asked, lambda _: self._later(), lambda _: failed(error))

    def _later(self) -> Future[tuple[Record, bool]]:
        pause_s = min(self._pause_s, max(self._until_s - self._clock(), 0.0))
        self._pause_s *= 2
        return then(self._store.later(pause_s), lambda _: self.run())


class Answering:
    """Answers replicas that ask for sessions of this one. Any thread."""

    def __init__(
        self, directory: Directory, engines: Mapping[str, EnginePort], store: StorePort
    ) -> None:
        self._directory = directory
        self._engines = engines
        self._store = store

    def take(self, asked: Sequence[Asked]) -> None:
        """Hands the sessions over, each when nothing prevents that any more.

        One that stays is answered with `Keep`. One that is not on a row has been released, or is about to be.
        """
        for one in asked:
            place = self._directory.find(*one.key)
            if place is not None:
                command = HandOver(place[1], one.by, one.take_over)
                handed = ask(self._engines[place[0]], command)
                handed.add_done_callback(partial(self._answer, one.key))

    def _answer(self, key: SessionKey, reply: Future[Handed]) -> None:
        stays = reply.exception() is not None or reply.result() in (Handed.KEPT, Handed.FAILED)
        if stays:
            ask_store(self._store, Keep([key]))
