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
    """The bytes are no message of this protocol, or a message without its event.

    Fix: Use stubs made from carousel.proto; send Hello first on an Attach stream.
    """


class FieldInvalidError(InvalidInputError, reason="FIELD_INVALID"):
    """A field is missing or out of its range; BadRequest names it.

    Fix: Correct the named field.
    """


class MessageTooLargeError(InvalidInputError, reason="MESSAGE_TOO_LARGE"):
    """The message is larger than the server takes.

    Fix: Send fewer steps or sessions in one message, or raise max_message_bytes on the server.
    """


class TokenInvalidError(UnauthorizedError, reason="TOKEN_INVALID"):
    """The server asks for a bearer token, and none or an unknown one was sent.

    Fix: Pass the token that the operator gave you: Client(target, token=…).
    """


class CertificateUnknownError(UnauthorizedError, reason="CERTIFICATE_UNKNOWN"):
    """The client's certificate is valid, and belongs to no tenant of the server.

    Fix: Use the certificate that the operator gave you; the operator maps its name with
    `certificates`.
    """


class IdentityConflictError(UnauthorizedError, reason="IDENTITY_CONFLICT"):
    """The client's token and certificate, or two names in the certificate, are of different
    tenants.

    Fix: Use the token and the certificate of one tenant.
    """


class InputShapeError(InvalidInputError, reason="INPUT_SHAPE"):
    """The inputs have another size than steps × the model's row.

    Fix: Send rows of the width that the model's input states.
    """


class InputDtypeError(InvalidInputError, reason="INPUT_DTYPE"):
    """The inputs are declared as another element type than the model's.

    Fix: Convert the inputs to the model's input dtype.
    """


class InputNotFiniteError(InvalidInputError, reason="INPUT_NOT_FINITE"):
    """An input is NaN or infinite; it would spoil the session's state for ever.

    Fix: Clean the row and send it again with the same seq; the session is unharmed.
    """


class StepNotFiniteError(InvalidInputError, reason="STEP_NOT_FINITE"):
    """The inputs are finite, but an output or a state after the step would be NaN or infinite.

    Fix: Send another input with the same seq: the state is as before the step. Check the
    model's range.
    """


class UnknownTokenError(InvalidInputError, reason="UNKNOWN_TOKEN"):
    """A token id is outside the model's vocabulary.

    Fix: Send ids from 0 to vocabulary-1.
    """


class SequenceTooLongError(InvalidInputError, reason="SEQUENCE_TOO_LONG"):
    """The sequence or prompt is empty or longer than the server takes.

    Fix: Send fewer steps, stream it through a session, or raise max_sequence_steps on the
    server.
    """


class ModelNotFoundError(NotFoundError, reason="MODEL_NOT_FOUND"):
    """The server serves no model of this name.

    Fix: See `carousel models list --server …` for the names.
    """


class ModelNotCausalError(ConflictError, reason="MODEL_NOT_CAUSAL"):
    """The model is bidirectional: its output depends on later inputs, so it cannot stream.

    Fix: Send whole sequences with Infer.
    """


class ModelNotGenerativeError(ConflictError, reason="MODEL_NOT_GENERATIVE"):
    """The model's outputs are not logits over its own input tokens, so nothing can be fed back.

    Fix: Use a language model, or send steps.
    """


class TextUnavailableError(ConflictError, reason="TEXT_UNAVAILABLE"):
    """The model names no tokenizer, so it takes no text.

    Fix: Send token ids.
    """


class ModelUnhealthyError(ServerFaultError, reason="MODEL_UNHEALTHY"):
    """The model's device has failed; the server no longer steps it.

    Fix: Restart the server; its log names the failure.
    """


class SessionNotFoundError(NotFoundError, reason="SESSION_NOT_FOUND"):
    """No session of this id is open for this caller.

    Fix: Open one; a session lost with a restarted server starts anew.
    """


class SessionExpiredError(NotFoundError, reason="SESSION_EXPIRED"):
    """The session was idle for longer than its idle_ttl and its state is gone.

    Fix: Open a new session, with a longer idle_ttl if pauses are expected.
    """


class SessionClosedError(NotFoundError, reason="SESSION_CLOSED"):
    """The session was closed.

    Fix: Open a new session.
    """


class SessionExistsError(ConflictError, reason="SESSION_EXISTS"):
    """A session of this id is open already, with other settings.

    Fix: Choose another id, or bind to the open session.
    """


class SessionBusyError(ConflictError, reason="SESSION_BUSY"):
    """The session is generating, so it takes no steps and no second generation.

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
    """The handle is bound to a session on this stream already.

    Fix: Choose another handle, or unbind it first.
    """


class DurabilityUnavailableError(ConflictError, reason="DURABILITY_UNAVAILABLE"):
    """The server has no store for the durability that was asked for.

    Fix: Ask for DURABILITY_NONE, or run the server with a store.
    """


class SequenceNotStartedError(InvalidInputError, reason="SEQUENCE_NOT_STARTED"):
    """A request of Triton's protocol belongs to a sequence that is not running here.

    Fix: Set sequence_start on the first request of a sequence, and after every sequence_end.
    """


class MethodNotOfferedError(ConflictError, reason="METHOD_NOT_OFFERED"):
    """The method of Triton's protocol is for something that this server does not have.

    Fix: See docs/guides/from-triton.md for what to use in its place.
    """


class DataLossError(ServerFaultError, reason="DATA_LOSS"):
    """The store has lost steps that it had confirmed, or the whole session.

    Fix: Restore the store's newest copy; else open a new session and feed it anew.
    """


class SnapshotDamagedError(ServerFaultError, reason="SNAPSHOT_DAMAGED"):
    """The session's snapshot in the store is damaged, or of a version that this server cannot
    read.

    Fix: Restore the store from a copy, or run the version that wrote it; the session is kept as
    it is.
    """


class StoreUnavailableError(RefusedError, reason="STORE_UNAVAILABLE"):
    """The store does not answer, or takes nothing more; nothing was lost.

    Fix: Try again; if it stays, the operator should look at the store: disk space, connection,
    log.
    """


class SessionHeldError(RefusedError, reason="SESSION_HELD"):
    """Another replica holds the session's lease.

    Fix: Try again: a replica that runs hands over when it drains, a dead one's lease runs out.
    """


class SessionParkedError(RefusedError, reason="SESSION_PARKED"):
    """The session went to the store just as the call came, more than once.

    Fix: Try again; if it stays, raise `slots` on the server: they are too few for the load.
    """


class LeaseLostError(RefusedError, reason="LEASE_LOST"):
    """The server no longer holds the session's lease, so it has let go of it.

    Fix: Bind the session again; steps that were not durable are sent again.
    """


class SequenceGapError(ConflictError, reason="SEQUENCE_GAP"):
    """The seq is beyond the next expected one; metadata `expected` has it.

    Fix: Send the steps from `expected` on.
    """


class SequenceReusedError(ConflictError, reason="SEQUENCE_REUSED"):
    """This seq was accepted before with other inputs.

    Fix: Give each new step the next seq; repeat a step only with the same inputs.
    """


class OutputForgottenError(ConflictError, reason="OUTPUT_FORGOTTEN"):
    """The outputs of this seq were acknowledged and forgotten.

    Fix: Acknowledge an output only after keeping it.
    """


class SnapshotInvalidError(InvalidInputError, reason="SNAPSHOT_INVALID"):
    """The bytes are no snapshot, are damaged, or are of an unknown version.

    Fix: Import the bytes just as ExportSession gave them.
    """


class FingerprintMismatchError(ConflictError, reason="FINGERPRINT_MISMATCH"):
    """The snapshot belongs to other weights.

    Fix: Import it where the same model package is served.
    """


class SlabFullError(RefusedError, reason="SLAB_FULL"):
    """Every slot of the model is taken.

    Fix: Try again later, close sessions, or raise `slots` on the server.
    """


class TooManySessionsError(RefusedError, reason="TOO_MANY_SESSIONS"):
    """The caller has as many sessions open, or bound on this stream, as it may.

    Fix: Close sessions, or raise the limit that the message names.
    """


class TooManyStreamsError(RefusedError, reason="TOO_MANY_STREAMS"):
    """The server holds as many Attach streams as it may.

    Fix: Share one stream between sessions, or raise max_streams on the server.
    """


class TooManyCallsError(RefusedError, reason="TOO_MANY_CALLS"):
    """The server runs as many calls as it may.

    Fix: Try again after the retry delay; send fewer calls at a time, or use an Attach stream.
    """


class QuotaExceededError(RefusedError, reason="QUOTA_EXCEEDED"):
    """The caller's tenant has as much as it may; QuotaFailure names the tenant and the setting.

    Fix: Try again after the retry delay; give back or slow down, or have the operator raise the
    setting.
    """


class WindowExceededError(RefusedError, reason="WINDOW_EXCEEDED"):
    """More steps are un-acknowledged than the window holds.

    Fix: Acknowledge outputs; send at most window_steps beyond ack.
    """


class QueueFullError(RefusedError, reason="QUEUE_FULL"):
    """The model's queue is full.

    Fix: Try again after the retry delay; slow down.
    """


class DeadlineExceededError(RefusedError, reason="DEADLINE_EXCEEDED"):
    """The step's deadline passed before it ran; it was not applied.

    Fix: Send it again with the same seq, with more time.
    """


class MessageTimeoutError(RefusedError, reason="MESSAGE_TIMEOUT"):
    """The call was opened, and its message did not arrive whole in time; it was not applied.

    Fix: Send the message with the call; for slow networks the operator raises
    message_timeout_s.
    """


class DrainingError(RefusedError, reason="DRAINING"):
    """The server is shutting down and takes nothing new.

    Fix: Try again: another replica, or this one when it is back.
    """


class StepFailedError(RefusedError, reason="STEP_FAILED"):
    """The device refused the step; every state is as it was before.

    Fix: Send the step again with the same seq; if it stays, tell the operator.
    """


class InternalError(ServerFaultError, reason="INTERNAL"):
    """A defect of the server.

    Fix: Report the request id; the server's log has the rest.
    """
