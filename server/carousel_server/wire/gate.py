"""The gate: which Attach streams are open, and whether anything new may begin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from carousel_server.core.errors import CarouselError
from carousel_server.core.metering import WireMetrics
from carousel_server.core.quotas import Quota, QuotaPort, Shares, quota_exceeded

from .options import WireOptions
from .turns import Turns


class Drainable(Protocol):
    """A stream, as the gate sees it."""

    def announce_drain(self, grace_s: float, *, hands_over: bool) -> None:
        """Tells the client that the stream will end, and when.

        With `hands_over`, the stream of a client that follows moves ends with its last session.
        """

    def finish(self, error: CarouselError) -> None:
        """Sends what is ready, then ends the stream with `error`."""


class Gate:
    """Counts streams in and out, and closes for good when the server drains. On the loop only.

    Attributes:
        turns: whose message is read next.
        draining: nothing new may begin any more.
        hands_over: sessions leave one by one, and meanwhile take steps of clients that follow moves.
    """

    def __init__(self, options: WireOptions, metrics: WireMetrics, quotas: QuotaPort) -> None:
        self._options = options
        self.metrics = metrics
        self.quotas = quotas
        self._streams: set[Drainable] = set()
        self._shares = Shares(options.max_streams, quotas.limits.tenant_share)
        self.turns = Turns(quotas.backlogged)
        self.draining = self.hands_over = False

    def refuse_if_draining(self) -> None:
        """Raises CarouselError DRAINING once the server drains."""
        if self.draining:
            raise self.drain_error()

    def refuses_steps(self, *, follows: bool) -> bool:
        """True if steps are refused too. `follows`: their client follows moves."""
        return self.draining and not (self.hands_over and follows)

    def drain_error(self) -> CarouselError:
        """What is told to whoever comes, or still is, after the drain has begun."""
        retry_after_s = max(self._options.retry_after_s, 1.0)
        return CarouselError("DRAINING", "the server is shutting down", retry_after_s=retry_after_s)

    @contextmanager
    def admit(self, stream: Drainable, tenant: str) -> Iterator[None]:
        """Counts a tenant's stream in, and out at the end.

        Raises:
            CarouselError: DRAINING, TOO_MANY_STREAMS or QUOTA_EXCEEDED.
        """
        self.refuse_if_draining()
        self._check_room(tenant)
        self._streams.add(stream)
        self._shares.take(tenant)
        self.turns.enter(tenant)
        self.metrics.streams(len(self._streams))
        try:
            yield
        finally:
            self._streams.discard(stream)
            self._shares.give_back(tenant)
            self.turns.leave(tenant)
            self.metrics.streams(len(self._streams))

    def _check_room(self, tenant: str) -> None:
        limit, retry_after_s = self._options.max_streams, self._options.retry_after_s
        if len(self._streams) >= limit:
            raise CarouselError(
                "TOO_MANY_STREAMS",
                f"{limit} streams are open (max_streams)",
                metadata={"limit": limit},
                retry_after_s=retry_after_s,
            )
        if not self._shares.fits(tenant):
            share = self._shares.limit(tenant)
            raise quota_exceeded(tenant, Quota.SHARE, "streams", share, retry_after_s)

    def drain(self, grace_s: float, *, hands_over: bool = False) -> None:
        """Lets nothing new begin, and tells every stream, once. `hands_over` may end later."""
        first, self.draining, self.hands_over = not self.draining, True, hands_over
        if first:
            for stream in tuple(self._streams):
                stream.announce_drain(grace_s, hands_over=hands_over)

    def finish(self) -> None:
        """Ends every stream, after what it has ready."""
        for stream in tuple(self._streams):
            stream.finish(self.drain_error())
