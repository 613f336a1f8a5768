"""The registry of errors: every refusal and failure that a Carousel server can send, by name.

One table, from which the server's status codes, the SDK's exception classes and
docs/reference/errors.md are made. A reason is a promise: it is never renamed or given another meaning.
"""

from __future__ import annotations

from .error_specs import Actor, Code, ErrorSpec

__all__ = ["DOMAIN", "ERRORS", "Actor", "Code", "ErrorSpec"]

DOMAIN = "carousel"
"""The `domain` of every `google.rpc.ErrorInfo` that a Carousel server sends."""


def _registry(*specs: ErrorSpec) -> dict[str, ErrorSpec]:
    table = {spec.reason: spec for spec in specs}
    assert len(table) == len(specs), "a reason stands twice in the registry"
    return table


ERRORS: dict[str, ErrorSpec] = _registry(
    # -- the message itself
    ErrorSpec(
        "MALFORMED_MESSAGE",
        Code.INVALID_ARGUMENT,
        Actor.CALLER,
        "The bytes are no message of this protocol, or a message without its event.",
        "Use stubs made from carousel.proto; send Hello first on an Attach stream.",
    ),
    ErrorSpec(
        "FIELD_INVALID",
        Code.INVALID_ARGUMENT,
        Actor.CALLER,
        "A field is missing or out of its range; BadRequest names it.",
        "Correct the named field.",
    ),
    ErrorSpec(
        "MESSAGE_TOO_LARGE",
        Code.RESOURCE_EXHAUSTED,
        Actor.CALLER,
        "The message is larger than the server takes.",
        "Send fewer steps or sessions in one message, or raise max_message_bytes on the server.",
    ),
    ErrorSpec(
        "TOKEN_INVALID",
        Code.UNAUTHENTICATED,
        Actor.CALLER,
        "The server asks for a bearer token, and none or an unknown one was sent.",
        "Pass the token that the operator gave you: Client(target, token=…).",
    ),
    ErrorSpec(
        "CERTIFICATE_UNKNOWN",
        Code.UNAUTHENTICATED,
        Actor.CALLER,
        "The client's certificate is valid, and belongs to no tenant of the server.",
        "Use the certificate that the operator gave you; the operator maps its name with `certificates`.",
    ),
    ErrorSpec(
        "IDENTITY_CONFLICT",
        Code.UNAUTHENTICATED,
        Actor.CALLER,
        "The client's token and certificate, or two names in the certificate, are of different tenants.",
        "Use the token and the certificate of one tenant.",
    ),
    # -- inputs
    ErrorSpec(
        "INPUT_SHAPE",
        Code.INVALID_ARGUMENT,
        Actor.CALLER,
        "The inputs have another size than steps × the model's row.",
        "Send rows of the width that the model's input states.",
    ),
    ErrorSpec(
        "INPUT_DTYPE",
        Code.INVALID_ARGUMENT,
        Actor.CALLER,
        "The inputs are declared as another element type than the model's.",
        "Convert the inputs to the model's input dtype.",
    ),
    ErrorSpec(
        "INPUT_NOT_FINITE",
        Code.INVALID_ARGUMENT,
        Actor.CALLER,
        "An input is NaN or infinite; it would spoil the session's state for ever.",
        "Clean the row and send it again with the same seq; the session is unharmed.",
    ),
    ErrorSpec(
        "STEP_NOT_FINITE",
        Code.INVALID_ARGUMENT,
        Actor.CALLER,
        "The inputs are finite, but an output or a state after the step would be NaN or infinite.",
        "Send another input with the same seq: the state is as before the step. Check the model's range.",
    ),
    ErrorSpec(
        "UNKNOWN_TOKEN",
        Code.INVALID_ARGUMENT,
        Actor.CALLER,
        "A token id is outside the model's vocabulary.",
        "Send ids from 0 to vocabulary-1.",
    ),
    ErrorSpec(
        "SEQUENCE_TOO_LONG",
        Code.INVALID_ARGUMENT,
        Actor.CALLER,
        "The sequence or prompt is empty or longer than the server takes.",
        "Send fewer steps, stream it through a session, or raise max_sequence_steps on the server.",
    ),
    # -- models
    ErrorSpec(
        "MODEL_NOT_FOUND",
        Code.NOT_FOUND,
        Actor.CALLER,
        "The server serves no model of this name.",
        "See `carousel models list --server …` for the names.",
    ),
    ErrorSpec(
        "MODEL_NOT_CAUSAL",
        Code.FAILED_PRECONDITION,
        Actor.CALLER,
        "The model is bidirectional: its output depends on later inputs, so it cannot stream.",
        "Send whole sequences with Infer.",
    ),
    ErrorSpec(
        "MODEL_NOT_GENERATIVE",
        Code.FAILED_PRECONDITION,
        Actor.CALLER,
        "The model's outputs are not logits over its own input tokens, so nothing can be fed back.",
        "Use a language model, or send steps.",
    ),
    ErrorSpec(
        "TEXT_UNAVAILABLE",
        Code.FAILED_PRECONDITION,
        Actor.CALLER,
        "The model names no tokenizer, so it takes no text.",
        "Send token ids.",
    ),
    ErrorSpec(
        "MODEL_UNHEALTHY",
        Code.UNAVAILABLE,
        Actor.OPERATOR,
        "The model's device has failed; the server no longer steps it.",
        "Restart the server; its log names the failure.",
    ),
    # -- sessions
    ErrorSpec(
        "SESSION_NOT_FOUND",
        Code.NOT_FOUND,
        Actor.CALLER,
        "No session of this id is open for this caller.",
        "Open one; a session lost with a restarted server starts anew.",
    ),
    ErrorSpec(
        "SESSION_EXPIRED",
        Code.NOT_FOUND,
        Actor.CALLER,
        "The session was idle for longer than its idle_ttl and its state is gone.",
        "Open a new session, with a longer idle_ttl if pauses are expected.",
    ),
    ErrorSpec(
        "SESSION_CLOSED",
        Code.NOT_FOUND,
        Actor.CALLER,
        "The session was closed.",
        "Open a new session.",
    ),
    ErrorSpec(
        "SESSION_EXISTS",
        Code.ALREADY_EXISTS,
        Actor.CALLER,
        "A session of this id is open already, with other settings.",
        "Choose another id, or bind to the open session.",
    ),
    ErrorSpec(
        "SESSION_BUSY",
        Code.FAILED_PRECONDITION,
        Actor.CALLER,
        "The session is generating, so it takes no steps and no second generation.",
        "Wait for the generation to end, or cancel it.",
    ),
    ErrorSpec(
        "SUPERSEDED",
        Code.ABORTED,
        Actor.CALLER,
        "A newer stream or call has bound this session.",
        "Use one client per session at a time.",
    ),
    ErrorSpec(
        "HANDLE_NOT_BOUND",
        Code.FAILED_PRECONDITION,
        Actor.CALLER,
        "The handle is not bound on this stream.",
        "Bind the session first.",
    ),
    ErrorSpec(
        "HANDLE_IN_USE",
        Code.FAILED_PRECONDITION,
        Actor.CALLER,
        "The handle is bound to a session on this stream already.",
        "Choose another handle, or unbind it first.",
    ),
    ErrorSpec(
        "DURABILITY_UNAVAILABLE",
        Code.FAILED_PRECONDITION,
        Actor.CALLER,
        "The server has no store for the durability that was asked for.",
        "Ask for DURABILITY_NONE, or run the server with a store.",
    ),
    ErrorSpec(
        "SEQUENCE_NOT_STARTED",
        Code.INVALID_ARGUMENT,
        Actor.CALLER,
        "A request of Triton's protocol belongs to a sequence that is not running here.",
        "Set sequence_start on the first request of a sequence, and after every sequence_end.",
    ),
    ErrorSpec(
        "METHOD_NOT_OFFERED",
        Code.UNIMPLEMENTED,
        Actor.CALLER,
        "The method of Triton's protocol is for something that this server does not have.",
        "See docs/guides/from-triton.md for what to use in its place.",
    ),
    # -- the store
    ErrorSpec(
        "DATA_LOSS",
        Code.DATA_LOSS,
        Actor.OPERATOR,
        "The store has lost steps that it had confirmed, or the whole session.",
        "Restore the store's newest copy; else open a new session and feed it anew.",
    ),
    ErrorSpec(
        "SNAPSHOT_DAMAGED",
        Code.DATA_LOSS,
        Actor.OPERATOR,
        "The session's snapshot in the store is damaged, or of a version that this server cannot read.",
        "Restore the store from a copy, or run the version that wrote it; the session is kept as it is.",
    ),
    ErrorSpec(
        "STORE_UNAVAILABLE",
        Code.UNAVAILABLE,
        Actor.RETRY,
        "The store does not answer, or takes nothing more; nothing was lost.",
        "Try again; if it stays, the operator should look at the store: disk space, connection, log.",
    ),
    ErrorSpec(
        "SESSION_HELD",
        Code.UNAVAILABLE,
        Actor.RETRY,
        "Another replica holds the session's lease.",
        "Try again: a replica that runs hands over when it drains, a dead one's lease runs out.",
    ),
    ErrorSpec(
        "SESSION_PARKED",
        Code.UNAVAILABLE,
        Actor.RETRY,
        "The session went to the store just as the call came, more than once.",
        "Try again; if it stays, raise `slots` on the server: they are too few for the load.",
    ),
    ErrorSpec(
        "LEASE_LOST",
        Code.UNAVAILABLE,
        Actor.RETRY,
        "The server no longer holds the session's lease, so it has let go of it.",
        "Bind the session again; steps that were not durable are sent again.",
    ),
    # -- cursors
    ErrorSpec(
        "SEQUENCE_GAP",
        Code.OUT_OF_RANGE,
        Actor.CALLER,
        "The seq is beyond the next expected one; metadata `expected` has it.",
        "Send the steps from `expected` on.",
    ),
    ErrorSpec(
        "SEQUENCE_REUSED",
        Code.FAILED_PRECONDITION,
        Actor.CALLER,
        "This seq was accepted before with other inputs.",
        "Give each new step the next seq; repeat a step only with the same inputs.",
    ),
    ErrorSpec(
        "OUTPUT_FORGOTTEN",
        Code.OUT_OF_RANGE,
        Actor.CALLER,
        "The outputs of this seq were acknowledged and forgotten.",
        "Acknowledge an output only after keeping it.",
    ),
    # -- snapshots
    ErrorSpec(
        "SNAPSHOT_INVALID",
        Code.INVALID_ARGUMENT,
        Actor.CALLER,
        "The bytes are no snapshot, are damaged, or are of an unknown version.",
        "Import the bytes just as ExportSession gave them.",
    ),
    ErrorSpec(
        "FINGERPRINT_MISMATCH",
        Code.FAILED_PRECONDITION,
        Actor.CALLER,
        "The snapshot belongs to other weights.",
        "Import it where the same model package is served.",
    ),
    # -- limits: refused at the door, try again
    ErrorSpec(
        "SLAB_FULL",
        Code.RESOURCE_EXHAUSTED,
        Actor.RETRY,
        "Every slot of the model is taken.",
        "Try again later, close sessions, or raise `slots` on the server.",
    ),
    ErrorSpec(
        "TOO_MANY_SESSIONS",
        Code.RESOURCE_EXHAUSTED,
        Actor.RETRY,
        "The caller has as many sessions open, or bound on this stream, as it may.",
        "Close sessions, or raise the limit that the message names.",
    ),
    ErrorSpec(
        "TOO_MANY_STREAMS",
        Code.RESOURCE_EXHAUSTED,
        Actor.RETRY,
        "The server holds as many Attach streams as it may.",
        "Share one stream between sessions, or raise max_streams on the server.",
    ),
    ErrorSpec(
        "TOO_MANY_CALLS",
        Code.RESOURCE_EXHAUSTED,
        Actor.RETRY,
        "The server runs as many calls as it may.",
        "Try again after the retry delay; send fewer calls at a time, or use an Attach stream.",
    ),
    ErrorSpec(
        "QUOTA_EXCEEDED",
        Code.RESOURCE_EXHAUSTED,
        Actor.RETRY,
        "The caller's tenant has as much as it may; QuotaFailure names the tenant and the setting.",
        "Try again after the retry delay; give back or slow down, or have the operator raise the setting.",
    ),
    ErrorSpec(
        "WINDOW_EXCEEDED",
        Code.RESOURCE_EXHAUSTED,
        Actor.RETRY,
        "More steps are un-acknowledged than the window holds.",
        "Acknowledge outputs; send at most window_steps beyond ack.",
    ),
    ErrorSpec(
        "QUEUE_FULL",
        Code.RESOURCE_EXHAUSTED,
        Actor.RETRY,
        "The model's queue is full.",
        "Try again after the retry delay; slow down.",
    ),
    # -- time
    ErrorSpec(
        "DEADLINE_EXCEEDED",
        Code.DEADLINE_EXCEEDED,
        Actor.RETRY,
        "The step's deadline passed before it ran; it was not applied.",
        "Send it again with the same seq, with more time.",
    ),
    ErrorSpec(
        "MESSAGE_TIMEOUT",
        Code.DEADLINE_EXCEEDED,
        Actor.RETRY,
        "The call was opened, and its message did not arrive whole in time; it was not applied.",
        "Send the message with the call; for slow networks the operator raises message_timeout_s.",
    ),
    ErrorSpec(
        "DRAINING",
        Code.UNAVAILABLE,
        Actor.RETRY,
        "The server is shutting down and takes nothing new.",
        "Try again: another replica, or this one when it is back.",
    ),
    # -- ours
    ErrorSpec(
        "STEP_FAILED",
        Code.INTERNAL,
        Actor.RETRY,
        "The device refused the step; every state is as it was before.",
        "Send the step again with the same seq; if it stays, tell the operator.",
    ),
    ErrorSpec(
        "INTERNAL",
        Code.INTERNAL,
        Actor.MAINTAINERS,
        "A defect of the server.",
        "Report the request id; the server's log has the rest.",
    ),
)
"""Every reason, in the order of the documentation."""
