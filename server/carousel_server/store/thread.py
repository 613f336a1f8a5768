"""The store's thread: runs the requests of all threads in order, and resolves their futures."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar

from typing_extensions import override

from carousel_server.core.errors import CarouselError
from carousel_server.core.failpoints import hit
from carousel_server.core.metering import StoreMetrics
from carousel_server.core.quotas import NO_LIMITS, TenantLimits
from carousel_server.core.store import (
    Acquire,
    Announcement,
    AskFor,
    Commit,
    CommitGroup,
    ListStored,
    Outcome,
    Read,
    Release,
    Remove,
    Replica,
    Store,
    StorePort,
    StoreRequest,
)
from carousel_server.core.types import Durability

from .acquiring import Acquiring
from .calls import Calls
from .faults import RETRY_AFTER_S, ShardFault, unavailable
from .grouping import Requests
from .leases import Leases
from .outage import Outage
from .peers import OnAsked, Peers
from .quota import StoreQuota
from .unfinished import UnfinishedRequests
from .upkeep import Upkeep

log = logging.getLogger(__name__)

T = TypeVar("T")

_MOST_IDLE_S = 1.0
_SLOW_S = 0.25
"""After a fault that took so long, the requests queued behind it fail too."""
_STUCK_S = 5.0
"""A request that takes longer means that the store does not answer."""

_BOUNDED = (Acquire, Read, ListStored, AskFor)
"""Requests that clients cause. Each engine or session has at most one of the others in flight."""


class StoreThread(StorePort):
    """The store's thread and its queue.

    Requests of one kind that are neighbours in the queue run together where the store can do that. Commits
    overtake the others, see `Requests`. Between requests the thread renews the leases and sweeps. A fault of
    the store fails only the requests that it affects. Without `start`, the caller of `run_pending` is the
    thread.

    Args:
        store: only this thread uses it from now on, and `stop` closes it.
        queue_requests: most requests that wait. Beyond it, clients' requests are refused.
        clock: monotonic, for leases and pauses.
        metrics: the port for its metrics.
        limits: the quotas of one tenant.
    """

    def __init__(
        self,
        store: Store,
        *,
        queue_requests: int = 65_536,
        clock: Callable[[], float] = time.monotonic,
        metrics: StoreMetrics | None = None,
        limits: TenantLimits = NO_LIMITS,
    ) -> None:
        self._store = store
        self._most = queue_requests
        self._clock = clock
        self._metrics = metrics
        self._queue = Requests(store.most_acquires)
        self._wake = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._quota = StoreQuota(store, limits, clock)
        self._leases = Leases(store, clock)
        self._peers = Peers(store, clock)
        self._unfinished = UnfinishedRequests(store, clock)
        acquiring = Acquiring(
            store, clock, self._leases, self._peers, self._quota, self._unfinished
        )
        self._calls = Calls(store, self._peers, acquiring)
        self._upkeep = Upkeep(store, self._leases, self._peers, self._unfinished, clock, metrics)
        self._outage = Outage(store.name, clock)
        # When the running request began. Infinity between requests. Read by `fault`.
        self._asked_s = math.inf
        # A slow fault, until the requests queued behind it have failed.
        self._slow_fault: CarouselError | None = None

    # -- any thread

    @property
    def name(self) -> str:
        """The store's name, for logs and metrics."""
        return self._store.name

    @property
    def levels(self) -> frozenset[Durability]:
        """The durability that the store can give."""
        return self._store.levels

    @property
    @override
    def lease_until_s(self) -> float:
        return self._leases.until_s

    @property
    @override
    def lease_lost(self) -> int:
        return self._leases.lost

    @override
    def now_unix_s(self) -> float:
        return self._store.now_unix_s()

    @property
    @override
    def fault(self) -> str:
        if self._clock() - self._asked_s >= _STUCK_S:
            return "the store does not answer"
        return self._outage.fault

    @property
    @override
    def replicas(self) -> Sequence[Replica]:
        return self._peers.replicas

    @property
    def said(self) -> Announcement:
        """This replica's announcement, as of now."""
        return self._peers.said

    def advertise(self, address: str) -> None:
        """Announces this replica at an address, host:port, where it can be reached from now on."""
        self._peers.announce(replace(self.said, address=address))
        self._nudge()

    def announce(self, accepting: bool, sessions: int) -> None:
        """Sets what the next renewal announces. A changed `accepting` is written at once."""
        self._peers.announce(replace(self.said, accepting=accepting, sessions=sessions))
        self._nudge()

    def exchange(self) -> Future[None]:
        """Writes the announcement and reads those of the others, now.

        Returns:
            What is settled when both are done, on the store's thread. While the store is away, that lasts.
        """
        looked = self._peers.next_look()
        self._nudge()
        return looked

    def _nudge(self) -> None:
        with self._wake:
            self._wake.notify()

    def hand_asked_to(self, on_asked: OnAsked) -> None:
        """Sets who gets the requests of other replicas. It is called on the store's thread."""
        self._peers.on_asked = on_asked

    @override
    def submit(self, request: StoreRequest) -> None:
        with self._wake:
            if self._stopping:
                raise unavailable("the server is shutting down, and its store too")
            if len(self._queue) >= self._most and isinstance(request, _BOUNDED):
                raise CarouselError(
                    "QUEUE_FULL",
                    f"{self._most} requests wait for the store",
                    metadata={"limit": self._most},
                    retry_after_s=RETRY_AFTER_S,
                )
            self._queue.add(request)
            self._wake.notify()

    @override
    def later(self, delay_s: float) -> Future[None]:
        paused = self._upkeep.timers.add(delay_s)
        self._nudge()
        return paused

    def start(self) -> None:
        """Starts the thread. Once."""
        assert self._thread is None, "a store has one thread"
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Refuses new requests, runs the waiting ones, closes the store and ends the thread. Idempotent.

        Requests that have not run after `timeout_s` fail with STORE_UNAVAILABLE.
        """
        with self._wake:
            first, self._stopping = not self._stopping, True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                log.error("the store does not answer: ending without it")
                self._fail_queued()
        elif first:
            self._finish()

    # -- the store's thread

    def run_pending(self) -> int:
        """Renews and sweeps if that is due, and runs all waiting requests. Returns their number."""
        count = 0
        self._keep_up()
        self._fail_behind()
        while requests := self._take():
            count += len(requests)
            # Requests that were cancelled while they waited are not run.
            live = [one for one in requests if one.reply.set_running_or_notify_cancel()]
            if live:
                self._answer(live)
            self._keep_up()
            self._fail_behind()
        return count

    def _run(self) -> None:
        while not self._stopping:
            self.run_pending()
            with self._wake:
                if not self._queue and not self._stopping:
                    self._wake.wait(self._idle_s())
        self._finish()

    def _finish(self) -> None:
        self.run_pending()
        self._upkeep.timers.close(unavailable())
        try:
            self._store.close()
        except CarouselError as error:
            log.warning("the store could not be closed cleanly: %s", error.message)

    def _idle_s(self) -> float:
        return min(max(self._upkeep.due_s - self._clock(), 0.0), _MOST_IDLE_S)

    def _take(self) -> Sequence[StoreRequest]:
        """The next requests that run together."""
        with self._wake:
            return self._queue.take()

    def _answer(self, requests: Sequence[StoreRequest]) -> None:
        """Runs requests of one kind."""
        groups = [one for one in requests if isinstance(one, CommitGroup)]
        if groups:
            self._commit(groups)
            return
        kind, work = self._calls.of(requests)
        try:
            answers = self._ask(kind, work)
        except CarouselError as error:
            answers = [error] * len(requests)
        for request, answer in zip(requests, answers, strict=True):
            reply: Future[Any] = request.reply
            if isinstance(answer, CarouselError):
                if answer.reason == "STORE_UNAVAILABLE":
                    self._unfinished.failed(request)
                reply.set_exception(answer)
            else:
                reply.set_result(answer)

    def _commit(self, groups: Sequence[CommitGroup]) -> None:
        """Commits all groups in one transaction."""
        commits: list[Commit] = []
        fsync = any(group.fsync for group in groups)
        began_s = self._clock()
        hit("before_commit")

        def commit() -> list[Outcome]:
            commits.extend(one for group in groups for one in group.commits)  # makes the bytes
            for one in commits:
                self._quota.kept(one.key.tenant, len(one.snapshot))
            return self._store.commit(commits, fsync=fsync)

        try:
            outcomes = self._ask("commit", commit)
        except CarouselError as error:
            for group in groups:
                group.reply.set_exception(error)
            return
        hit("after_commit")
        self._tell_commit(commits, outcomes, self._clock() - began_s)
        rest = iter(outcomes)
        for group in groups:
            group.reply.set_result(list(islice(rest, len(group.commits))))

    def _tell_commit(
        self, commits: Sequence[Commit], outcomes: Sequence[Outcome], seconds: float
    ) -> None:
        if self._metrics is not None:
            snapshot_bytes = sum(len(one.snapshot) for one in commits)
            verdicts = Counter(outcome.verdict for outcome in outcomes)
            self._metrics.commit_group(len(commits), snapshot_bytes, seconds, verdicts)

    def _ask(self, kind: str, work: Callable[[], T]) -> T:
        """Runs one call of the store and counts it. Any exception becomes a CarouselError."""
        began_s, ok = self._clock(), False
        self._asked_s = began_s
        try:
            answer = work()
            ok = True
        except CarouselError as error:
            ok = error.reason != "STORE_UNAVAILABLE"
            # A fault of one shard is no outage, and fails nothing that waits behind.
            if not ok and not isinstance(error, ShardFault):
                error.retry_after_s = error.retry_after_s or RETRY_AFTER_S
                self._outage.failed(error)
                if self._clock() - began_s >= _SLOW_S:
                    self._slow_fault = error
            raise
        except Exception as error:  # the thread must go on after any exception of a store or driver
            log.exception("the store's %s failed because of a defect", kind)
            raise CarouselError("INTERNAL", "the store has failed because of a defect") from error
        finally:
            self._asked_s = math.inf
            if ok:
                self._outage.answered()
            if self._metrics is not None:
                self._metrics.request(kind, ok, self._clock() - began_s)
        return answer

    # -- between requests

    def _keep_up(self) -> None:
        self._upkeep.run(self._ask, is_faulty=bool(self._outage.fault))

    def _fail_behind(self) -> None:
        """Fails the requests queued behind a slow fault, so that their waiting times do not add up."""
        error, self._slow_fault = self._slow_fault, None
        if error is not None:
            for request in self._fail_queued(error):
                if isinstance(request, Release | Remove):
                    self._unfinished.failed(request)

    def _fail_queued(self, error: CarouselError | None = None) -> Sequence[StoreRequest]:
        with self._wake:
            waiting = self._queue.drain()
        for request in waiting:
            if request.reply.set_running_or_notify_cancel():
                request.reply.set_exception(error or unavailable())
        return waiting
