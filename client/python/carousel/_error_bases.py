"""The bases of every error that the SDK raises, and the few that arise in the client itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy.typing as npt

from carousel_protos.errors import ERRORS

BY_REASON: dict[str, type[CarouselError]] = {}
"""Every class that stands for a reason of the registry."""


class CarouselError(Exception):
    """Base of all errors of this SDK. Shows the reason, what happened, and how to fix it.

    Attributes:
        reason: the registry's name of the error, such as "SEQUENCE_GAP".
        code: the gRPC status code's name, such as "OUT_OF_RANGE".
        message: what happened here.
        fix: what to do about it.
        metadata: machine-readable facts, such as `expected` or `limit`.
        retry_after_s: when to try again, in seconds; None if the server gave no hint.
        request_id: the server's number of the failed request, for its log; "" if unknown.
        seq: the first step concerned; 0 if none.
    """

    reason: str = "UNKNOWN"
    code: str = "UNKNOWN"
    fix: str = ""
    retryable: ClassVar[bool] = False

    def __init_subclass__(cls, *, reason: str | None = None, **rest: Any) -> None:
        """A class that names a reason takes code and fix from the registry."""
        super().__init_subclass__(**rest)
        if reason is not None:
            spec = ERRORS[reason]
            cls.reason, cls.code, cls.fix = reason, spec.code.name, spec.fix
            BY_REASON[reason] = cls

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        code: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        request_id: str = "",
        seq: int = 0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.reason
        self.code = code or self.code
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s
        self.request_id = request_id
        self.seq = seq

    def __str__(self) -> str:
        text = f"{self.reason}: {self.message}"
        if self.request_id:
            text += f" [request {self.request_id}]"
        return f"{text}\n  fix: {self.fix}" if self.fix else text


class InvalidInputError(CarouselError, ValueError):
    """What was sent is wrong in itself, whatever the server's state."""


class NotFoundError(CarouselError, LookupError):
    """The named model or session is not there, or not any more."""


class ConflictError(CarouselError):
    """The call does not fit the state of the session, the model or the server."""


class UnauthorizedError(CarouselError, PermissionError):
    """The server wants a token, or a better one."""


class RefusedError(CarouselError):
    """Not now: the same call may succeed later. `retry_after_s` says when to try again."""

    retryable = True


class ServerFaultError(CarouselError):
    """The server failed; the caller did nothing wrong."""


class ClientSideError(CarouselError):
    """Arose in the client or in the network, with no answer from a server."""


class ConnectionLostError(ClientSideError, ConnectionError):
    """The stream to the server broke and could not be mended: no server was found within the policy's
    reconnect_s, or the policy mends nothing. Sessions with a durability live on in the server's store,
    others with their server.
    """

    reason = "CONNECTION_LOST"
    code = "UNAVAILABLE"
    fix = (
        "When the server is back, go on with client.attach(session_id), whose `applied` tells which "
        "steps have run; RetryPolicy(reconnect_s=…) looks longer for it."
    )


class ServerUnreachableError(ClientSideError, ConnectionError):
    """No server answers at the target."""

    reason = "SERVER_UNREACHABLE"
    code = "UNAVAILABLE"
    fix = "Check the target and that a server listens there: `carousel health --server …`."
    retryable = True


class TlsError(ServerUnreachableError):
    """A server listens at the target, but client and server do not agree on TLS."""

    reason = "TLS"

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix or self.fix


class ReplyTimeoutError(ClientSideError, TimeoutError):
    """No answer came in time. A step that was taken will still run, once, also if the connection is being
    mended just now; its output is dropped, and the next step follows it.
    """

    reason = "REPLY_TIMEOUT"
    code = "DEADLINE_EXCEEDED"
    fix = "Give more time with timeout_s, or see session.info() for the steps that have run."


class ClientClosedError(ClientSideError, RuntimeError):
    """The client, session or stream was closed here, so it takes no more calls."""

    reason = "CLIENT_CLOSED"
    code = "CANCELLED"
    fix = "Use it inside its `with` block, or open a new one."


class EventLoopError(ClientSideError, RuntimeError):
    """The client cannot work in this event loop.

    It belongs to another loop, or the loop is gevent's and gRPC's hook for that is not installed.
    """

    reason = "EVENT_LOOP"
    code = "FAILED_PRECONDITION"
    fix = (
        "Make one AsyncClient for each asyncio.run, or use one asyncio.run for all. Under gevent call "
        "grpc.experimental.gevent.init_gevent() after gevent's patch and before the first client."
    )


class ProtocolViolationError(ClientSideError):
    """The peer does not speak this protocol as agreed."""

    reason = "PROTOCOL_VIOLATION"
    code = "INTERNAL"
    fix = "Check that the target is a Carousel server; if it is, please report this."


class ReplayDivergedError(ClientSideError):
    """An output came again differently after a reconnect, so the session or the text cannot continue.

    Other weights are served now, or the batch rounds differently: see the server's `strict`.
    """

    reason = "REPLAY_DIVERGED"
    code = "DATA_LOSS"
    fix = "Begin again. If the weights have not changed, run the server with --strict."


class JournalError(ClientSideError, OSError):
    """A session's journal cannot be used: it is another's, in use, damaged, or cannot be written.

    Attributes:
        journal: the journal that took nothing more, if it was open.
    """

    reason = "JOURNAL"
    code = "FAILED_PRECONDITION"
    fix = (
        "Give each session a file of its own, on a disk with room. A damaged one can be moved away; "
        "then client.attach(session_id) goes on from the server's cursors."
    )

    def __init__(self, message: str, *, journal: object = None) -> None:
        super().__init__(message)
        self.journal = journal


class BatchStepError(CarouselError):
    """Some sessions of a batch failed. The others have stepped, and their outputs are here.

    Attributes:
        errors: the error of each failed session, by its position in the batch.
        outputs: as `step` would have returned them; rows of failed sessions are zero where no
            output came.
    """

    reason = "BATCH_STEP"
    code = "ABORTED"
    fix = "Look at `errors` for each failed session, and at `outputs` for the others."

    def __init__(self, errors: Mapping[int, CarouselError], outputs: npt.NDArray[Any]) -> None:
        first = min(errors)
        super().__init__(
            f"{len(errors)} of {len(outputs)} sessions failed; number {first}: {errors[first]}"
        )
        self.errors = dict(errors)
        self.outputs = outputs
