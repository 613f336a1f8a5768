"""A StorePort without a thread. Requests wait until a test runs, loses or fails them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import (
    Acquire,
    AskFor,
    CommitGroup,
    Keep,
    ListStored,
    Read,
    Release,
    Remove,
    Replica,
    Store,
    StoreRequest,
)
from carousel_server.core.types import Durability


class ManualStore:
    """Runs requests on a real store, in order, when a test says so."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.levels: frozenset[Durability] = store.levels
        self.lease_until_s = math.inf
        self.lease_lost = 0
        self.fault = ""
        self.replicas: Sequence[Replica] = ()
        self.address = "here:1"
        self.waiting: deque[StoreRequest] = deque()
        self.pauses: list[tuple[float, Future[None]]] = []
        self.commits: list[CommitGroup] = []

    def now_unix_s(self) -> float:
        return self.store.now_unix_s()

    def submit(self, request: StoreRequest) -> None:
        self.waiting.append(request)

    def later(self, delay_s: float) -> Future[None]:
        self.pauses.append((delay_s, paused := Future[None]()))
        return paused

    def wait(self, seconds: float) -> None:
        """Ends the pauses that are over after a time."""
        pauses = [(left_s - seconds, paused) for left_s, paused in self.pauses]
        self.pauses = [one for one in pauses if one[0] > 1e-9]
        for left_s, paused in pauses:
            if left_s <= 1e-9:
                paused.set_result(None)

    def run(self) -> None:
        """Runs all waiting requests, and those that they cause."""
        while self.waiting:
            self.run_one()

    def run_one(self, *, lose_answer: bool = False) -> None:
        """Runs the oldest request. With `lose_answer` its answer is lost."""
        request = self.waiting.popleft()
        if isinstance(request, CommitGroup):
            self.commits.append(request)
        try:
            result = self._run(request)
        except CarouselError as error:
            request.reply.set_exception(error)
            return
        if lose_answer:
            request.reply.set_exception(unavailable())
        else:
            request.reply.set_result(result)

    def refuse(self) -> None:
        """Fails all waiting requests without running them."""
        while self.waiting:
            self.waiting.popleft().reply.set_exception(unavailable())

    def _run(self, request: StoreRequest) -> Any:
        verbs: dict[type, Callable[[Any], Any]] = {
            Acquire: lambda r: self.store.acquire(
                r.key, epoch_floor=r.epoch_floor, new=r.new, first=r.first
            ),
            CommitGroup: lambda r: self.store.commit(r.commits, fsync=r.fsync),
            Release: lambda r: self.store.release(r.held),
            Remove: lambda r: self.store.remove(r.key, r.epoch, r.reason),
            Read: lambda r: self.store.read(r.key),
            ListStored: lambda r: self.store.list(r.tenant, r.after, r.limit, r.model),
            AskFor: lambda r: self.store.ask_for(
                r.key, r.holder, take_over=r.take_over, by=self.address
            ),
            Keep: lambda r: self.store.keep(r.keys),
        }
        return verbs[type(request)](request)


def unavailable() -> CarouselError:
    return CarouselError("STORE_UNAVAILABLE", "the store is away", retry_after_s=0.1)
