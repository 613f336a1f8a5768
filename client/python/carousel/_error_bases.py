"""The base classes of all errors of the SDK, and the errors of the client itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy.typing as npt

from carousel_protos.errors import ERRORS

BY_REASON: dict[str, type[CarouselError]] = {}
"""The class of each reason in the registry."""


class CarouselError(Exception):
    """Base of all errors of this SDK, with the reason, what happened, and the fix.

    Attributes:
        reason: the registry's name of the error, such as "SEQUENCE_GAP".
        code: the gRPC status code's name, such as "OUT_OF_RANGE".
        message: what happened.
        fix: what to do.
        metadata: machine-readable facts, such as `expected` or `limit`.
        retry_after_s: when to try again, in seconds. None if the server gave no hint.
        request_id: the id of the failed request in the server's log. "" if unknown.
        seq: the first step concerned. 0 if there is none.
    """

    reason: str = "UNKNOWN"
    code: str = "UNKNOWN"
    fix: str = ""
    retryable: ClassVar[bool] = False

    def __init_subclass__(cls, *, reason: str | None = None, **rest: Any) -> None:
        """Sets code and fix of a class with a reason from the registry."""
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
    """The request itself is wrong, in any state of the server."""


class NotFoundError(CarouselError, LookupError):
    """The named model or session does not exist, or no longer exists."""


class ConflictError(CarouselError):
    """The call does not fit the state of the session, the model or the server."""


class UnauthorizedError(CarouselError, PermissionError):
    """The server requires a valid token or certificate."""


class RefusedError(CarouselError):
    """The call was refused now, and may succeed later. `retry_after_s` is when to try again."""

    retryable = True


class ServerFaultError(CarouselError):
    """The server failed; the caller did nothing wrong."""


class ClientSideError(CarouselError):
    """The error is of the client or the connection, without an answer from a server."""


class ConnectionLostError(ClientSideError, ConnectionError):
    """The stream to the server broke, and no server was found within the policy's reconnect_s.

    Sessions with a durability remain in the server's store. Others remain as long as their server runs.
    """

    reason = "CONNECTION_LOST"
    code = "UNAVAILABLE"
    fix = (
        "When the server is back, continue with client.attach(session_id). Its `applied` is the last "
        "step that has run. RetryPolicy(reconnect_s=…) sets how long the client tries to reconnect."
    )


class ServerUnreachableError(ClientSideError, ConnectionError):
    """No server answers at the target."""

    reason = "SERVER_UNREACHABLE"
    code = "UNAVAILABLE"
    fix = "Check the target, and whether a server listens there: `carousel health --server …`."
    retryable = True


class TlsError(ServerUnreachableError):
    """A server listens at the target, but client and server do not agree on TLS."""

    reason = "TLS"

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix or self.fix


class ReplyTimeoutError(ClientSideError, TimeoutError):
    """No answer came in time. A submitted step still runs once, also after a reconnect.

    Its output is dropped, and the next step follows it.
    """

    reason = "REPLY_TIMEOUT"
    code = "DEADLINE_EXCEEDED"
    fix = "Raise timeout_s, or check session.info() for the steps that have run."


class ClientClosedError(ClientSideError, RuntimeError):
    """The client, session or stream was closed, so it accepts no more calls."""

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
    """The peer has broken the rules of the protocol."""

    reason = "PROTOCOL_VIOLATION"
    code = "INTERNAL"
    fix = "Check that the target is a Carousel server. If it is, please report this."


class ServerTooOldError(ClientSideError):
    """The server is from before what was asked for, and would ignore it. Nothing was sent."""

    reason = "SERVER_TOO_OLD"
    code = "UNIMPLEMENTED"
    fix = "Update the server. Servers are updated before their clients."


class ReplayDivergedError(ClientSideError):
    """An output came again differently after a reconnect, so the session or the text cannot continue.

    The server has other weights now, or its batches round differently. See the server's setting `strict`.
    """

    reason = "REPLAY_DIVERGED"
    code = "DATA_LOSS"
    fix = "Begin again. If the weights have not changed, run the server with --strict."


class JournalError(ClientSideError, OSError):
    """A session's journal cannot be used. It is another session's, in use, damaged, or not writable.

    Attributes:
        journal: the journal that could not be written, if it was open.
    """

    reason = "JOURNAL"
    code = "FAILED_PRECONDITION"
    fix = (
        "Give each session its own file, on a disk with room. If it is damaged, move it away: "
        "client.attach(session_id) then continues from the server's cursors."
    )

    def __init__(self, message: str, *, journal: object = None) -> None:
        super().__init__(message)
        self.journal = journal


class BatchStepError(CarouselError):
    """Some sessions of a batch failed. The others have run their step, and `outputs` has their outputs.

    Attributes:
        errors: the error of each failed session, by its position in the batch.
        outputs: as from `step`. The rows of failed sessions are zero where there is no
            output.
    """

    reason = "BATCH_STEP"
    code = "ABORTED"
    fix = "Check `errors` for each failed session, and `outputs` for the others."

    def __init__(self, errors: Mapping[int, CarouselError], outputs: npt.NDArray[Any]) -> None:
        first = min(errors)
        super().__init__(
            f"{len(errors)} of {len(outputs)} sessions failed; number {first}: {errors[first]}"
        )
        self.errors = dict(errors)
        self.outputs = outputs
