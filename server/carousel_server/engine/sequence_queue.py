"""Whole sequences that wait for the device: tenants in turn, by steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from carousel_server.core.errors import CarouselError
from carousel_server.core.limits import EngineLimits
from carousel_server.core.ports import Infer
from carousel_server.core.quotas import Quota, Shares, quota_exceeded


class SequenceQueue:
    """A bounded queue with start-time fair queuing. Used on the engine's thread only.

    A sequence of n steps moves its tenant's next turn n steps back. So a tenant that wants two steps waits
    for no more than one sequence of each other tenant (Goyal, Vin and Cheng, SIGCOMM 1996).

    Attributes:
        count: calls that wait.
    """

    def __init__(self, limits: EngineLimits, share: float, row_bytes: int) -> None:
        """`row_bytes`: of an input row."""
        self._limits = limits
        self._row_bytes = row_bytes
        self._waiting: dict[str, deque[Infer]] = {}
        self._call_shares = Shares(limits.max_infer_queue, share)
        self._byte_shares = Shares(limits.inbox_bytes, share)
        self.count = self._bytes = 0
        # The turn that was last, in steps, and each tenant's next one, where that is later.
        self._now = 0
        self._next: dict[str, int] = {}

    def put(self, call: Infer) -> None:
        """Adds a call behind those of its tenant.

        Raises:
            CarouselError: QUEUE_FULL or QUOTA_EXCEEDED.
        """
        refusal = self._refusal(call)
        if refusal is not None:
            self._forget_cancelled()
            refusal = self._refusal(call)
        if refusal is not None:
            raise refusal
        self._waiting.setdefault(call.tenant, deque()).append(call)
        self._count_call(call, 1)

    def pop(self, may_run: Callable[[Infer], bool]) -> Infer | None:
        """The call whose turn it is, among the first ones of all tenants that may run now."""
        firsts = [queue[0] for queue in self._waiting.values()]
        for call in sorted(firsts, key=lambda call: self._turn(call.tenant)):
            if may_run(call):
                self._pass_turn(call)
                self._remove(call)
                return call
        return None

    def drain(self) -> Iterator[Infer]:
        """Takes all, in no order."""
        while self._waiting:
            call = next(iter(self._waiting.values()))[0]
            self._remove(call)
            yield call

    def _refusal(self, call: Infer) -> CarouselError | None:
        limits, tenant, size = self._limits, call.tenant, len(call.inputs)
        full = self.count >= limits.max_infer_queue
        if full or self._bytes + size > limits.inbox_bytes:
            return CarouselError(
                "QUEUE_FULL",
                f"{self.count} sequences with {self._bytes} bytes are waiting",
                retry_after_s=limits.retry_after_s,
            )
        for shares, amount, what in (
            (self._call_shares, 1, "sequences waiting"),
            (self._byte_shares, size, "bytes of sequences waiting"),
        ):
            if not shares.fits(tenant, amount):
                limit, pause_s = shares.limit(tenant), limits.retry_after_s
                return quota_exceeded(tenant, Quota.SHARE, what, limit, pause_s)
        return None

    def _turn(self, tenant: str) -> int:
        return max(self._next.get(tenant, 0), self._now)

    def _pass_turn(self, call: Infer) -> None:
        self._now = self._turn(call.tenant)
        self._next[call.tenant] = self._now + len(call.inputs) // self._row_bytes
        # A turn that has come says no more than none.
        self._next = {tenant: turn for tenant, turn in self._next.items() if turn > self._now}

    def _remove(self, call: Infer) -> None:
        """Takes the first call of its tenant."""
        queue = self._waiting[call.tenant]
        queue.popleft()
        if not queue:
            del self._waiting[call.tenant]
        self._count_call(call, -1)

    def _count_call(self, call: Infer, sign: int) -> None:
        size = len(call.inputs)
        self.count += sign
        self._bytes += sign * size
        for shares, amount in ((self._call_shares, 1), (self._byte_shares, size)):
            (shares.take if sign > 0 else shares.give_back)(call.tenant, amount)

    def _forget_cancelled(self) -> None:
        """Drops the calls that were cancelled. Where there is none, it must cost little."""
        for tenant, queue in [*self._waiting.items()]:
            cancelled = {id(call) for call in queue if call.reply.cancelled()}
            if not cancelled:
                continue
            for call in queue:
                if id(call) in cancelled:
                    self._count_call(call, -1)
            left = deque(call for call in queue if id(call) not in cancelled)
            if left:
                self._waiting[tenant] = left
            else:
                del self._waiting[tenant]
