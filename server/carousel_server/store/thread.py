"""The store's thread: takes requests from any thread, runs them in order, settles their futures."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from carousel_server.core.errors import CarouselError
from carousel_server.core.failpoints import hit
from carousel_server.core.metering import StoreMetrics
from carousel_server.core.quotas import NO_LIMITS, TenantLimits
from carousel_server.core.store import (
    Acquire,
    Commit,
    CommitGroup,
    ListStored,
    Outcome,
    Read,
    Record,
    Release,
    Remove,
    Store,
    StoreRequest,
)
from carousel_server.core.types import Durability

from .faults import RETRY_AFTER_S, unavailable
from .leases import Leases
from .leftovers import Leftovers
from .outage import Outage
from .quota import StoreQuota

log = logging.getLogger(__name__)

T = TypeVar("T")

_SWEEP_EVERY_S = 5.0
_SWEPT_AT_ONCE = 256
"""Sessions ended between two requests; they wait for it."""
_MOST_IN_GROUP = 4096
"""Snapshots in one transaction."""
_MOST_IDLE_S = 1.0
_SLOW_S = 0.25
"""A fault that took so long was waited for: what is queued behind it fails with it."""
_STUCK_S = 5.0
"""A request that is answered no sooner means that the store does not answer."""

_BOUNDED = (Acquire, Read, ListStored)
"""Requests that clients cause; the others are bounded by who sends them."""


class StoreThread:
    """Implements `core.store.StorePort`.

    Commit groups that stand next to each other in the queue become one transaction, so nothing overtakes
    anything. Between requests it renews the leases and sweeps. A fault of the store fails the requests
    that it hit, and no others. Without `start`, whoever calls `run_pending` is the thread.

    Args:
        store: used by this thread only from now on, and closed by `stop`.
        queue_requests: most requests that wait; beyond it clients' are refused.
        clock: monotonic, for leases and pauses.
        metrics: what to tell of it.
        limits: what one tenant may keep.
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
        self._queue: deque[StoreRequest] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._quota = StoreQuota(store, limits, clock)
        self._leases = Leases(store, clock)
        self._leftovers = Leftovers(store, clock)
        self._outage = Outage(store.name, clock)
        self._sweep_due_s = clock() + _SWEEP_EVERY_S
        # Instant at which the running request began; infinity between requests. Read by `fault`.
        self._asked_s = math.inf
        # A fault that was waited for, until those queued behind it are told.
        self._slow_fault: CarouselError | None = None

    # -- any thread

    @property
    def name(self) -> str:
        """See `Store`."""
        return self._store.name

    @property
    def levels(self) -> frozenset[Durability]:
        """What the store can promise."""
        return self._store.levels

    @property
    def lease_until_s(self) -> float:
        """See `StorePort.lease_until_s`."""
        return self._leases.until_s

    @property
    def lease_lost(self) -> int:
        """See `StorePort.lease_lost`."""
        return self._leases.lost

    def now_unix_s(self) -> float:
        """See `Store.now_unix_s`."""
        return self._store.now_unix_s()

    @property
    def fault(self) -> str:
        """See `StorePort.fault`."""
        if self._clock() - self._asked_s >= _STUCK_S:
            return "the store does not answer"
        return self._outage.fault

    def submit(self, request: StoreRequest) -> None:
        """See `StorePort.submit`."""
        with self._wake:
            if self._stopping:
                raise unavailable("the server is ending, and its store with it")
            if len(self._queue) >= self._most and isinstance(request, _BOUNDED):
                raise CarouselError(
                    "QUEUE_FULL",
                    f"{self._most} requests wait for the store",
                    metadata={"limit": self._most},
                    retry_after_s=RETRY_AFTER_S,
                )
            self._queue.append(request)
            self._wake.notify()

    def start(self) -> None:
        """Starts the thread. Once."""
        assert self._thread is None, "a store has one thread"
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Takes nothing new, runs what waits, closes the store, ends the thread. Idempotent.

        What has not run after `timeout_s` fails with STORE_UNAVAILABLE.
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
        """Renews and sweeps if it is time, and runs everything that waits. Returns how many requests."""
        count = 0
        self._keep_up()
        self._fail_behind()
        while requests := self._take():
            count += len(requests)
            # Requests that were given up while they waited are not run.
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
        try:
            self._store.close()
        except CarouselError as error:
            log.warning("the store was not closed in good order: %s", error.message)

    def _idle_s(self) -> float:
        due_s = min(self._leases.due_s, self._sweep_due_s)
        return min(max(due_s - self._clock(), 0.0), _MOST_IDLE_S)

    def _take(self) -> Sequence[StoreRequest]:
        """The next request; with a commit group those behind it, up to the next of another kind."""
        with self._wake:
            if not self._queue:
                return ()
            requests = [self._queue.popleft()]
            records = _records(requests[0])
            while self._queue and records and _records(self._queue[0]):
                records += _records(self._queue[0])
                if records > _MOST_IN_GROUP:
                    break
                requests.append(self._queue.popleft())
            return requests

    def _answer(self, requests: Sequence[StoreRequest]) -> None:
        groups = [one for one in requests if isinstance(one, CommitGroup)]
        if groups:
            self._commit(groups)
            return
        for request in requests:
            kind, work = self._work(request)
            reply: Future[Any] = request.reply
            try:
                answer = self._ask(kind, work)
            except CarouselError as error:
                if error.reason == "STORE_UNAVAILABLE":
                    self._leftovers.failed(request)
                reply.set_exception(error)
            else:
                reply.set_result(answer)

    def _work(self, request: StoreRequest) -> tuple[str, Callable[[], object]]:
        """What to ask of the store."""
        store = self._store
        match request:
            case Acquire():
                return "acquire", partial(self._acquire, request)
            case Release(held):
                return "release", partial(store.release, held)
            case Remove(key, epoch, reason):
                return "remove", partial(store.remove, key, epoch, reason)
            case Read(key):
                return "read", partial(store.read, key)
            case ListStored(tenant, after, limit, model):
                return "list", partial(store.list, tenant, after, limit, model)
            case CommitGroup():
                raise AssertionError("commits go in groups")

    def _acquire(self, request: Acquire) -> Record:
        """Under leases that live: else another replica could take the session at once."""
        if self._clock() >= self._leases.until_s:
            self._leases.renew()
        self._quota.check(request)
        record = self._store.acquire(
            request.key, epoch_floor=request.epoch_floor, new=request.new, first=request.first
        )
        if record.created:
            self._quota.opened(request)
        hit("after_acquire")
        self._leftovers.acquired(request.key)
        return record

    def _commit(self, groups: Sequence[CommitGroup]) -> None:
        """One transaction for all of them."""
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
        """Runs one call of the store; whatever it raises becomes a CarouselError, and is counted."""
        began_s, ok = self._clock(), False
        self._asked_s = began_s
        try:
            answer = work()
            ok = True
        except CarouselError as error:
            ok = error.reason != "STORE_UNAVAILABLE"
            if not ok:
                error.retry_after_s = error.retry_after_s or RETRY_AFTER_S
                self._outage.failed(error)
                if self._clock() - began_s >= _SLOW_S:
                    self._slow_fault = error
            raise
        except Exception as error:  # the thread must live on, whatever a store or driver does
            log.exception("the store's %s failed by a defect", kind)
            raise CarouselError("INTERNAL", "the store has failed by a defect") from error
        finally:
            self._asked_s = math.inf
            if ok:
                self._outage.answered()
            if self._metrics is not None:
                self._metrics.request(kind, ok, self._clock() - began_s)
        return answer

    # -- between requests

    def _keep_up(self) -> None:
        self._leases.notice()
        now = self._clock()
        try:
            if now >= self._leases.due_s:
                self._ask("renew", self._leases.renew)
            if self._leftovers.is_due():
                self._ask("release", self._leftovers.settle)
            if now >= self._sweep_due_s:
                self._sweep_due_s = now + _SWEEP_EVERY_S
                self._look_after()
        except CarouselError:
            return  # it was told; the next turn tries again

    def _look_after(self) -> None:
        """Ends what has expired, and measures what is left."""
        now_unix_s = self._store.now_unix_s()
        ended = self._ask("sweep", lambda: self._store.sweep(now_unix_s, _SWEPT_AT_ONCE))
        if ended >= _SWEPT_AT_ONCE:
            self._sweep_due_s = self._clock()  # there is more
        if self._metrics is not None:
            level = self._ask("statistics", self._store.statistics)
            self._metrics.level(level.sessions, level.bytes)

    def _fail_behind(self) -> None:
        """Fails what has queued up behind a fault that took long, so that no wait adds up."""
        error, self._slow_fault = self._slow_fault, None
        if error is not None:
            for request in self._fail_queued(error):
                if isinstance(request, Release | Remove):
                    self._leftovers.failed(request)

    def _fail_queued(self, error: CarouselError | None = None) -> Sequence[StoreRequest]:
        with self._wake:
            waiting = list(self._queue)
            self._queue.clear()
        for request in waiting:
            if request.reply.set_running_or_notify_cancel():
                request.reply.set_exception(error or unavailable())
        return waiting


def _records(request: StoreRequest) -> int:
    """Snapshots in a commit group, at least 1; 0 for any other request."""
    return max(len(request.commits), 1) if isinstance(request, CommitGroup) else 0
