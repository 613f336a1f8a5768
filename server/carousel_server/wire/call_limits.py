"""What every call passes before its handler: a lane with a limit, and a time for its message."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from carousel_server.core.errors import CarouselError
from carousel_server.core.metering import WireMetrics

from .abandoned import AbandonedCalls, close_connection
from .lanes import MOST_PROBES, PATIENCE_S, PROBE_PATIENCE_S, Lane
from .options import WireOptions

HEALTH = "grpc.health.v1.Health"

AT_THE_DOOR = frozenset(
    {
        *("TOKEN_INVALID", "CERTIFICATE_UNKNOWN", "IDENTITY_CONFLICT"),
        *("TOO_MANY_CALLS", "MESSAGE_TIMEOUT"),
    }
)
"""Refusals that cost a hostile caller nothing, so the log has a line for many of them."""

_INTERVAL_S = 5.0
"""Between two lines about calls of one kind."""

log = logging.getLogger("carousel.wire")


class CallLimits:
    """The lanes of one server, and its budget of abandoned calls. On the loop only.

    Attributes:
        port: where the server listens; set once it does.
        message_timeout_s: the time that a call has to send its first message.
    """

    def __init__(self, options: WireOptions, metrics: WireMetrics) -> None:
        self._calls = Lane(options.max_calls, options, PATIENCE_S)
        self._probes = Lane(MOST_PROBES, options, PROBE_PATIENCE_S)
        self._abandoned = AbandonedCalls(
            options.abandoned_calls_per_s, 2 * options.calls_of_a_connection
        )
        self._metrics = metrics
        self._notices = Notices(log)
        self._closing: asyncio.Task[None] | None = None
        self.message_timeout_s = options.message_timeout_s
        self.port = 0

    def lane(self, service: str) -> Lane:
        """The lane of a service's calls."""
        return self._probes if service == HEALTH else self._calls

    def sweep(self) -> None:
        """Ends calls whose message is late; to be called a few times a second."""
        self._calls.sweep()
        self._probes.sweep()

    def refused(self, error: CarouselError, peer: str) -> None:
        """Notes a refusal, for the log."""
        if error.reason in AT_THE_DOOR:
            self._notices.warn(error.reason, f"a call is refused: {error.message}", peer)

    def abandoned(self, peer: str) -> None:
        """Notes that a client ended a call before its message was read.

        Beyond the budget of its address, the connection is closed. One is closed at a time.
        """
        if not self._abandoned.exceeds(peer):
            return
        if self._closing is None or self._closing.done():
            self._closing = asyncio.create_task(self._close(peer))

    async def _close(self, peer: str) -> None:
        if await asyncio.to_thread(close_connection, peer, self.port):
            self._metrics.connection_closed()
            text = "a connection is closed: its client starts calls and abandons them"
            self._notices.warn("ABANDONED_CALLS", text, peer)


class Notices:
    """Writes the first notice of a kind at once, then at most one line in each interval."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        # By kind: when its last line was written, and how many notices have had none since.
        self._told: dict[str, tuple[float, int]] = {}

    def warn(self, kind: str, text: str, peer: str) -> None:
        """Says `text` and which peer it was. `kind` is one of a few constants."""
        now_s = self._clock()
        last_s, unsaid = self._told.get(kind, (now_s - _INTERVAL_S, 0))
        if now_s - last_s < _INTERVAL_S:
            self._told[kind] = (last_s, unsaid + 1)
            return
        self._told[kind] = (now_s, 0)
        more = f"; {unsaid} more since the last such line" if unsaid else ""
        self._log.warning("%s%s", text, more, extra={"kind": kind, "peer": peer})
