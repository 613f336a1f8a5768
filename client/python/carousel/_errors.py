"""One exception class per reason of the registry. Made by generate_errors.py: do not edit."""

from __future__ import annotations

from ._error_bases import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ServerFaultError,
    UnauthorizedError,
)

__all__ = [
    "CertificateUnknownError",
    "DataLossError",
    "DeadlineExceededError",
    "DrainingError",
    "DurabilityUnavailableError",
    "FieldInvalidError",
    "FingerprintMismatchError",
    "HandleInUseError",
    "HandleNotBoundError",
    "IdentityConflictError",
    "InitialUnknownError",
    "InputDtypeError",
    "InputNotFiniteError",
    "InputShapeError",
    "InternalError",
    "LeaseLostError",
    "MalformedMessageError",
    "MessageTimeoutError",
    "MessageTooLargeError",
    "MethodNotOfferedError",
    "ModelNotCausalError",
    "ModelNotFoundError",
    "ModelNotGenerativeError",
    "ModelUnhealthyError",
    "OutputForgottenError",
    "QueueFullError",
    "QuotaExceededError",
    "SequenceGapError",
    "SequenceNotStartedError",
    "SequenceReusedError",
    "SequenceTooLongError",
    "SessionBusyError",
    "SessionClosedError",
    "SessionExistsError",
    "SessionExpiredError",
    "SessionHeldError",
    "SessionNotFoundError",
    "SessionParkedError",
    "SlabFullError",
    "SnapshotDamagedError",
    "SnapshotInvalidError",
    "StateInvalidError",
    "StepFailedError",
    "StepNotFiniteError",
    "StoreUnavailableError",
    "SupersededError",
    "TextUnavailableError",
    "TokenInvalidError",
    "TooManyCallsError",
    "TooManySessionsError",
    "TooManyStreamsError",
    "UnknownTokenError",
    "WindowExceededError",
]


class MalformedMessageError(InvalidInputError, reason="MALFORMED_MESSAGE"):
    """The bytes are not a message of this protocol, or the message has no event.

    Fix: Use stubs made from carousel.proto. Send Hello first on an Attach stream.
    """


class FieldInvalidError(InvalidInputError, reason="FIELD_INVALID"):
    """A field is missing or out of its range. BadRequest names it.

    Fix: Correct the named field.
    """


class MessageTooLargeError(InvalidInputError, reason="MESSAGE_TOO_LARGE"):
    """The message is larger than the server accepts.

    Fix: Send fewer steps or sessions in one message, or raise max_message_bytes on the server.
    """


class TokenInvalidError(UnauthorizedError, reason="TOKEN_INVALID"):
    """The server requires a bearer token. The call has none, or an unknown one.

    Fix: Pass the token that the operator gave you: Client(target, token=…).
    """


class CertificateUnknownError(UnauthorizedError, reason="CERTIFICATE_UNKNOWN"):
    """The client's certificate is valid, but it belongs to no tenant of the server.

    Fix: Use the certificate that the operator gave you. The operator sets its tenant with
    `certificates`.
    """


class IdentityConflictError(UnauthorizedError, reason="IDENTITY_CONFLICT"):
    """The client's token and certificate belong to different tenants, or two names in the
    certificate do.

    Fix: Use the token and the certificate of one tenant.
    """


class InputShapeError(InvalidInputError, reason="INPUT_SHAPE"):
    """The size of the inputs is not steps × the model's row.

    Fix: Send rows of the width of the model's input.
    """


class InputDtypeError(InvalidInputError, reason="INPUT_DTYPE"):
    """The declared element type of the inputs is not the model's.

    Fix: Convert the inputs to the model's input dtype.
    """


class InputNotFiniteError(InvalidInputError, reason="INPUT_NOT_FINITE"):
    """An input is NaN or infinite. It would damage the session's state for ever.

    Fix: Correct the row and send it again with the same seq. The session is unchanged.
    """


class StepNotFiniteError(InvalidInputError, reason="STEP_NOT_FINITE"):
    """The inputs are finite, but an output or a state after the step would be NaN or infinite.

    Fix: Send another input with the same seq. The state is as before the step. Check the
    model's range.
    """


class UnknownTokenError(InvalidInputError, reason="UNKNOWN_TOKEN"):
    """A token id is outside the model's vocabulary.

    Fix: Send ids from 0 to vocabulary-1.
    """


class SequenceTooLongError(InvalidInputError, reason="SEQUENCE_TOO_LONG"):
    """The sequence or prompt is empty, or longer than the server accepts.

    Fix: Send fewer steps, stream it through a session, or raise max_sequence_steps on the
    server.
    """


class ModelNotFoundError(NotFoundError, reason="MODEL_NOT_FOUND"):
    """The server serves no model of this name.

    Fix: Run `carousel models list --server …` for the names.
    """


class ModelNotCausalError(ConflictError, reason="MODEL_NOT_CAUSAL"):
    """The model is not causal. Its output depends on later inputs, so it cannot stream.

    Fix: Send whole sequences with Infer.
    """


class ModelNotGenerativeError(ConflictError, reason="MODEL_NOT_GENERATIVE"):
    """The model's outputs are not logits over its input tokens, so it cannot generate.

    Fix: Use a language model, or send steps.
    """


class TextUnavailableError(ConflictError, reason="TEXT_UNAVAILABLE"):
    """The model has no tokenizer, so it accepts no text.

    Fix: Send token ids.
    """


class ModelUnhealthyError(ServerFaultError, reason="MODEL_UNHEALTHY"):
    """The model's device has failed. The server runs no more steps of it.

    Fix: The operator must restart the server. Its log has the failure.
    """


class InitialUnknownError(InvalidInputError, reason="INITIAL_UNKNOWN"):
    """The model has no initial state of this name. Metadata `known` lists those that it has.

    Fix: Choose one of these names, or leave the field empty for the default.
    """


class StateInvalidError(InvalidInputError, reason="STATE_INVALID"):
    """A given state does not fit the model: its name, shape, type or numbers.

    Fix: Send states as Model.states describes them. Numbers must be finite.
    """


class SessionNotFoundError(NotFoundError, reason="SESSION_NOT_FOUND"):
    """No session of this id is open for this caller.

    Fix: Open a new session. A restarted server has only the sessions in its store.
    """


class SessionExpiredError(NotFoundError, reason="SESSION_EXPIRED"):
    """The session was idle for longer than its idle_ttl. Its state is gone.

    Fix: Open a new session, with a longer idle_ttl if pauses are expected.
    """


class SessionClosedError(NotFoundError, reason="SESSION_CLOSED"):
    """The session was closed.

    Fix: Open a new session.
    """


class SessionExistsError(ConflictError, reason="SESSION_EXISTS"):
    """A session of this id is already open, with other settings.

    Fix: Choose another id, or bind to the open session.
    """


class SessionBusyError(ConflictError, reason="SESSION_BUSY"):
    """The session is generating. It accepts no steps and no second generation.

    Fix: Wait for the generation to end, or cancel it.
    """


class SupersededError(ConflictError, reason="SUPERSEDED"):
    """A newer stream or call has bound this session.

    Fix: Use one client per session at a time.
    """


class HandleNotBoundError(ConflictError, reason="HANDLE_NOT_BOUND"):
    """The handle is not bound on this stream.

    Fix: Bind the session first.
    """


class HandleInUseError(ConflictError, reason="HANDLE_IN_USE"):
    """The handle is already bound to a session on this stream.

    Fix: Choose another handle, or unbind it first.
    """


class DurabilityUnavailableError(ConflictError, reason="DURABILITY_UNAVAILABLE"):
    """The server has no store for the requested durability.

    Fix: Request DURABILITY_NONE, or run the server with a store.
    """


class SequenceNotStartedError(InvalidInputError, reason="SEQUENCE_NOT_STARTED"):
    """A request of Triton's protocol belongs to a sequence that is not running here.

    Fix: Set sequence_start on the first request of a sequence, and after every sequence_end.
    """


class MethodNotOfferedError(ConflictError, reason="METHOD_NOT_OFFERED"):
    """The server does not have what this method of Triton's protocol is for.

    Fix: See docs/guides/from-triton.md for what to use instead.
    """


class DataLossError(ServerFaultError, reason="DATA_LOSS"):
    """The store has lost steps that it had confirmed, or the whole session.

    Fix: The operator can restore the newest copy of the store. Otherwise open a new session.
    """


class SnapshotDamagedError(ServerFaultError, reason="SNAPSHOT_DAMAGED"):
    """The session's snapshot in the store is damaged, or this server cannot read its version.

    Fix: Restore the store from a copy, or run the version that wrote it. The session stays in
    the store.
    """


class StoreUnavailableError(RefusedError, reason="STORE_UNAVAILABLE"):
    """The store does not answer, or accepts no more data. Nothing was lost.

    Fix: Try again. If it remains, the operator must check the store: disk space, connection,
    log.
    """


class SessionHeldError(RefusedError, reason="SESSION_HELD"):
    """Another replica holds the session's lease. Metadata `owner` has its address, where it is
    known.

    Fix: Try again. The other replica releases the session when it drains. The lease of a dead
    one expires.
    """


class SessionParkedError(RefusedError, reason="SESSION_PARKED"):
    """The session was parked just before the call arrived, more than once.

    Fix: Try again. If it remains, raise `slots` on the server: they are too few for the load.
    """


class LeaseLostError(RefusedError, reason="LEASE_LOST"):
    """The server no longer holds the session's lease, so it has released the session.

    Fix: Bind the session again, and send the steps that were not durable again.
    """


class SequenceGapError(ConflictError, reason="SEQUENCE_GAP"):
    """The seq is beyond the next one. Metadata `expected` has the next one.

    Fix: Send the steps from `expected` on.
    """


class SequenceReusedError(ConflictError, reason="SEQUENCE_REUSED"):
    """This seq was accepted before with other inputs.

    Fix: Give each new step the next seq. Repeat a step only with the same inputs.
    """


class OutputForgottenError(ConflictError, reason="OUTPUT_FORGOTTEN"):
    """The outputs of this seq were acknowledged, so the server has forgotten them.

    Fix: Acknowledge an output only after you have saved or used it.
    """


class SnapshotInvalidError(InvalidInputError, reason="SNAPSHOT_INVALID"):
    """The bytes are not a snapshot, are damaged, or have an unknown version.

    Fix: Import the bytes of ExportSession unchanged.
    """


class FingerprintMismatchError(ConflictError, reason="FINGERPRINT_MISMATCH"):
    """The snapshot belongs to other weights.

    Fix: Import it into a server of the same model package.
    """


class SlabFullError(RefusedError, reason="SLAB_FULL"):
    """Every slot of the model is in use.

    Fix: Try again later, close sessions, or raise `slots` on the server.
    """


class TooManySessionsError(RefusedError, reason="TOO_MANY_SESSIONS"):
    """The caller has reached its limit of open sessions, or of sessions bound on this stream.

    Fix: Close sessions, or raise the limit that the message names.
    """


class TooManyStreamsError(RefusedError, reason="TOO_MANY_STREAMS"):
    """The server has reached its limit of Attach streams.

    Fix: Share one stream between sessions, or raise max_streams on the server.
    """


class TooManyCallsError(RefusedError, reason="TOO_MANY_CALLS"):
    """The server has reached its limit of calls in flight.

    Fix: Try again after the retry delay. Send fewer calls at a time, or use an Attach stream.
    """


class QuotaExceededError(RefusedError, reason="QUOTA_EXCEEDED"):
    """The caller's tenant has reached a quota. QuotaFailure names the tenant and the setting.

    Fix: Try again after the retry delay. Use less, or ask the operator to raise the setting.
    """


class WindowExceededError(RefusedError, reason="WINDOW_EXCEEDED"):
    """More steps are unacknowledged than the window holds.

    Fix: Acknowledge outputs. Send at most window_steps beyond ack.
    """


class QueueFullError(RefusedError, reason="QUEUE_FULL"):
    """The model's queue is full.

    Fix: Try again after the retry delay, and send less at a time.
    """


class DeadlineExceededError(RefusedError, reason="DEADLINE_EXCEEDED"):
    """The step's deadline passed before it ran. It was not applied.

    Fix: Send it again with the same seq and a longer deadline.
    """


class MessageTimeoutError(RefusedError, reason="MESSAGE_TIMEOUT"):
    """The whole message of the call did not arrive in time. It was not applied.

    Fix: Send the message with the call. On slow networks the operator can raise
    message_timeout_s.
    """


class DrainingError(RefusedError, reason="DRAINING"):
    """The server is shutting down and accepts nothing new.

    Fix: Try again at another replica, or at this one after its restart.
    """


class StepFailedError(RefusedError, reason="STEP_FAILED"):
    """The device could not run the step. Every state is as it was before.

    Fix: Send the step again with the same seq. If it remains, tell the operator.
    """


class InternalError(ServerFaultError, reason="INTERNAL"):
    """A defect of the server.

    Fix: Report the request id. The server's log has the details.
    """
