"""Ports of the metrics: what engines, the wire and the store's thread report."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from .moves import Why
from .store import Verdict
from .types import Float64s


class EngineMetrics(Protocol):
    """What the engine of one model reports, on its own thread only. Times are in seconds."""

    def tick(self, rows: int, bucket: int, steps: Mapping[str, int], seconds: float) -> None:
        """A tick ran `rows` sessions, padded to `bucket`. `steps` has the steps of each tenant."""

    def stepped(self, queue_s: Float64s, latency_s: Float64s) -> None:
        """Clients' steps were delivered.

        float64[n] each: the times from arrival to the tick's start, and from arrival to delivery.
        """

    def tokens(self, count: int, first_token_s: Float64s, inter_token_s: Float64s) -> None:
        """`count` tokens were delivered, with the times since the request and since the token before."""

    def inferred(self, sequences: int, steps: int, seconds: float) -> None:
        """A whole-sequence batch, or a chunk of one, ran."""

    def not_finite(self) -> None:
        """A step, or a whole sequence, was refused because its result would be NaN or infinite."""

    def opened(self) -> None:
        """A session was opened."""

    def ended(self, how: str) -> None:
        """A session ended: "closed" or "expired"."""

    def moved(self, how: str) -> None:
        """A session was parked in the store or resumed from it: "parked", "resumed" or "revoked"."""

    def placed(self, at_owner: int, elsewhere: int) -> None:
        """A tick ran so many steps of sessions that this replica owns, and that another one owns."""

    def received(self) -> None:
        """A session has come because this replica had asked its holder for it."""

    def handed_over(self, why: Why, seconds: float) -> None:
        """A session was handed over to another replica, so long after that was asked for or decided."""

    def tenant_sessions(self, rows: Mapping[str, int]) -> None:
        """Level: resident sessions of each tenant that has any."""

    def durable(self, lag_s: Float64s) -> None:
        """The store confirmed n sessions. float64[n]: the times since the oldest unconfirmed step had run."""

    def data_loss(self, reason: str) -> None:
        """A session was found lost or damaged in the store: "DATA_LOSS" or "SNAPSHOT_DAMAGED"."""

    def gauges(
        self,
        *,
        resident: int,
        generating: int,
        pending_steps: int,
        inbox: int,
        undurable_steps: int,
        misplaced: int,
    ) -> None:
        """Levels, set a few times a second. `undurable_steps` is the most of any session.

        `misplaced` are resident sessions that another replica owns.
        """


TURNED_AWAY = ("connections", "calls", "protocol", "pings")
"""What the native transport refuses by itself: connections beyond `max_connections`, calls beyond the limit
of a connection, and connections that break HTTP/2 or TLS, or ping too often.
"""


HTTP = "carousel.http"
"""The service of all calls of the HTTP door."""

HTTP_METHODS = frozenset(
    {
        *("ListModels", "GetModel", "OpenSession", "ListSessions", "GetSession", "CloseSession"),
        *("ForkSession", "GetState", "Step", "Infer", "Generate", "Completions", "OpenAIModels"),
        *("Attach", "Rows", "ServerMetadata", "ServerLive", "ServerReady", "ModelMetadata"),
        *("ModelReady", "ModelConfig", "ModelInfer", "GetMetrics"),
    }
)
"""The calls of that door, as metrics and log name them."""


Reading: TypeAlias = float | Mapping[str, Any]
"""A number, or a histogram: inclusive upper `bounds`, cumulative `counts` (one more, for +Inf) and `sum`."""


@dataclass(frozen=True, slots=True)
class Readings:
    """The numbers that the console shows, by the names of the metrics.

    Attributes:
        at_s: when they were read, on the clock of the engines' process. Only differences have a meaning.
        models: by model and metric, of the whole server.
        tenants: by tenant, model and metric, for the tenants that have series of their own.
    """

    at_s: float
    models: Mapping[str, Mapping[str, Reading]]
    tenants: Mapping[str, Mapping[str, Mapping[str, Reading]]]


class WireMetrics(Protocol):
    """What the wire reports, on the event loop only. Times are in seconds.

    `kind` is "unary", "server_stream", "client_stream" or "bidi_stream". `code` is the name of a
    canonical status code, such as "OK".
    """

    def started(self, service: str, method: str, kind: str) -> None:
        """A call has started."""

    def handled(self, service: str, method: str, kind: str, code: str, seconds: float) -> None:
        """A call has ended, with or without an error."""

    def refused(self, reason: str, count: int = 1) -> None:
        """Calls, or messages or steps of a stream, were answered with an error of the registry."""

    def quota_refused(self, tenant: str, quota: str, count: int = 1) -> None:
        """Calls of a tenant were refused because it has reached a quota, named as its setting."""

    def redirected(self, count: int = 1) -> None:
        """Clients were sent to another replica: by Moved, or by an error that names the holder."""

    def streams(self, count: int) -> None:
        """Level: Attach streams open now."""

    def connection_closed(self) -> None:
        """A connection was closed, because its client abandoned too many calls."""

    def turned_away(self, what: str, count: int) -> None:
        """The native transport refused what never became a call: one of `TURNED_AWAY`."""

    def reloaded(self, what: str, *, ok: bool) -> None:
        """The files of "tokens" or "tls" have changed, and were read again or could not be read."""

    def loop_lag(self, seconds: float) -> None:
        """How late the event loop ran a timer. Every call waits this in addition to its own work."""

    def readings(self) -> Future[Readings]:
        """The server's numbers now."""


class StoreMetrics(Protocol):
    """What the store's thread reports, on that thread only. Times are in seconds."""

    def request(self, kind: str, ok: bool, seconds: float) -> None:
        """A request to the store has ended.

        `kind` is "acquire", "commit", "release", "remove", "read", "list", "renew", "sweep", "statistics",
        "replicas", "ask", "asked" or "keep".
        `ok` is False where the store did not answer. A refusal is an answer.
        """

    def commit_group(
        self, records: int, snapshot_bytes: int, seconds: float, verdicts: Mapping[Verdict, int]
    ) -> None:
        """One transaction committed or refused `records` snapshots of `snapshot_bytes` in all."""

    def level(self, sessions: int, stored_bytes: int) -> None:
        """How full the store is, every few seconds. -1 where that is unknown."""
