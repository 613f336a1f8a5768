"""Acquires sessions for this replica, as its leases and the quotas allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeGuard

from carousel_server.core.errors import CarouselError
from carousel_server.core.failpoints import hit
from carousel_server.core.store import Acquire, Record, Store

from .leases import Leases
from .peers import Peers
from .quota import StoreQuota
from .unfinished import UnfinishedRequests

Answer = Record | CarouselError


class Acquiring:
    """Used on the store's thread only."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        leases: Leases,
        peers: Peers,
        quota: StoreQuota,
        unfinished: UnfinishedRequests,
    ) -> None:
        """All but the store are of its thread."""
        self._store = store
        self._clock = clock
        self._leases = leases
        self._peers = peers
        self._quota = quota
        self._unfinished = unfinished

    def run(self, wanted: Sequence[Acquire]) -> Sequence[Answer]:
        """Acquires with valid leases. Otherwise another replica could take the sessions at once.

        Returns:
            What `Store.acquire` returns or raises for each.

        Raises:
            CarouselError: STORE_UNAVAILABLE, if none was answered.
        """
        if self._clock() >= self._leases.until_s:
            self._leases.renew(self._peers.said)
        refused = [self._refusal(one) for one in wanted]
        allowed = [one for one, error in zip(wanted, refused, strict=True) if error is None]
        acquired = iter(self._store.acquire_all(allowed))
        answers = [next(acquired) if error is None else error for error in refused]
        faults = [one for one in answers if _is_fault(one)]
        if len(faults) == len(answers):
            raise faults[0]
        for one, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, Record):
                self._acquired(one, answer)
        return answers

    def _refusal(self, wanted: Acquire) -> CarouselError | None:
        try:
            self._quota.check(wanted)
        except CarouselError as error:
            return error
        return None

    def _acquired(self, wanted: Acquire, record: Record) -> None:
        if record.created:
            self._quota.opened(wanted)
        hit("after_acquire")
        self._unfinished.acquired(wanted.key)


def _is_fault(answer: Answer) -> TypeGuard[CarouselError]:
    return isinstance(answer, CarouselError) and answer.reason == "STORE_UNAVAILABLE"
