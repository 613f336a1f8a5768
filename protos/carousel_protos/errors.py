"""The registry of errors: every refusal and failure that a Carousel server can send, by name.

The server's status codes, the SDK's exception classes and docs/reference/errors.md are made from this
table. A reason is never renamed and never gets another meaning.
"""

from __future__ import annotations

from .error_specs import Actor, Code, ErrorSpec
from .server_errors import OF_THE_SERVER

__all__ = ["DOMAIN", "ERRORS", "Actor", "Code", "ErrorSpec"]

DOMAIN = "carousel"
"""The `domain` of every `google.rpc.ErrorInfo` that a Carousel server sends."""


def _registry(*specs: ErrorSpec) -> dict[str, ErrorSpec]:
    table = {spec.reason: spec for spec in specs}
    assert len(table) == len(specs), "a reason is in the registry twice"
    return table


ERRORS: dict[str, ErrorSpec] = _registry(
    # -- the message itself
    ErrorSpec(
        "MALFORMED_MESSAGE",
        Code.INVALID_ARGUMENT,
        Actor.CALLER,
        "The bytes are not a message of this protocol, or the message has no event.",
        "Use stubs made from carousel.proto. Send Hello first on an Attach stream.",
    ),
    ErrorSpec(
        "FIELD_INVALID",
        Code.INVALID_ARGUMENT,
        Actor.CALLER,
        "A field is missing or out of its range. BadRequest names it.",
        "Correct the named field.",
    ),
    ErrorSpec(
        "MESSAGE_TOO_LARGE",
        Code.RESOURCE_EXHAUSTED,
        Actor.CALLER,
        "The message is larger than the server accepts.",
        "Send fewer steps or sessions in one message, or raise max_message_bytes on the server.",
    ),
    ErrorSpec(
        "TOKEN_INVALID",
        Code.UNAUTHENTICATED,
        Actor.CALLER,
        "The server requires a bearer token. The call has none, or an unknown one.",
        "Pass the token that the operator gave you: Client(target, token=…).",
    ),
    ErrorSpec(
        "CERTIFICATE_UNKNOWN",
        Code.UNAUTHENTICATED,
        Actor.CALLER,
        "The client's certificate is valid, but it belongs to no tenant of the server.",
        "Use the certificate that the operator gave you. The operator sets its tenant with `certificates`.",
    ),
    ErrorSpec(
        "IDENTITY_CONFLICT",
        Code.UNAUTHENTICATED,
        Actor.CALLER,
        "The client's token and certificate belong to different tenants, or two names in the certificate do.",
        "Use the token and the certificate of one tenant.",
    ),
    # -- inputs
    ErrorSpec(
        "INPUT_SHAPE",
        Code.INVALID_ARGUMENT,
        Actor.CALLER,
        "The size of the inputs is not steps × the model's row.",
        "Send rows of the width of the model's input.",
    ),
    ErrorSpec(
        "INPUT_DTYPE",
        Code.INVALID_ARGUMENT,
        Actor.CALLER,
        "The declared element type of the inputs is not the model's.",
        "Convert the inputs to the model's input dtype.",
    ),
    ErrorSpec(
        "INPUT_NOT_FINITE",
        Code.INVALID_ARGUMENT,
        Actor.CALLER,
        "An input is NaN or infinite. It would damage the session's state for ever.",
        "Correct the row and send it again with the same seq. The session is unchanged.",
    ),
    ErrorSpec(
        "STEP_NOT_FINITE",
        Code.INVALID_ARGUMENT,
        Actor.CALLER,
        "The inputs are finite, but an output or a state after the step would be NaN or infinite.",
        "Send another input with the same seq. The state is as before the step. Check the model's range.",
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
        "The sequence or prompt is empty, or longer than the server accepts.",
        "Send fewer steps, stream it through a session, or raise max_sequence_steps on the server.",
    ),
    # -- models
    ErrorSpec(
        "MODEL_NOT_FOUND",
        Code.NOT_FOUND,
        Actor.CALLER,
        "The server serves no model of this name.",
        "Run `carousel models list --server …` for the names.",
    ),
    ErrorSpec(
        "MODEL_NOT_CAUSAL",
        Code.FAILED_PRECONDITION,
        Actor.CALLER,
        "The model is not causal. Its output depends on later inputs, so it cannot stream.",
        "Send whole sequences with Infer.",
    ),
    ErrorSpec(
        "MODEL_NOT_GENERATIVE",
        Code.FAILED_PRECONDITION,
        Actor.CALLER,
        "The model's outputs are not logits over its input tokens, so it cannot generate.",
        "Use a language model, or send steps.",
    ),
    ErrorSpec(
        "TEXT_UNAVAILABLE",
        Code.FAILED_PRECONDITION,
        Actor.CALLER,
        "The model has no tokenizer, so it accepts no text.",
        "Send token ids.",
    ),
    ErrorSpec(
        "MODEL_UNHEALTHY",
        Code.UNAVAILABLE,
        Actor.OPERATOR,
        "The model's device has failed. The server runs no more steps of it.",
        "The operator must restart the server. Its log has the failure.",
    ),
    ErrorSpec(
        "INITIAL_UNKNOWN",
        Code.INVALID_ARGUMENT,
        Actor.CALLER,
        "The model has no initial state of this name. Metadata `known` lists those that it has.",
        "Choose one of these names, or leave the field empty for the default.",
    ),
    ErrorSpec(
        "STATE_INVALID",
        Code.INVALID_ARGUMENT,
        Actor.CALLER,
        "A given state does not fit the model: its name, shape, type or numbers.",
        "Send states as Model.states describes them. Numbers must be finite.",
    ),
    # -- sessions
    ErrorSpec(
        "SESSION_NOT_FOUND",
        Code.NOT_FOUND,
        Actor.CALLER,
        "No session of this id is open for this caller.",
        "Open a new session. A restarted server has only the sessions in its store.",
    ),
    ErrorSpec(
        "SESSION_EXPIRED",
        Code.NOT_FOUND,
        Actor.CALLER,
        "The session was idle for longer than its idle_ttl. Its state is gone.",
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
        "A session of this id is already open, with other settings.",
        "Choose another id, or bind to the open session.",
    ),
    ErrorSpec(
        "SESSION_BUSY",
        Code.FAILED_PRECONDITION,
        Actor.CALLER,
        "The session is generating. It accepts no steps and no second generation.",
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
        "The handle is already bound to a session on this stream.",
        "Choose another handle, or unbind it first.",
    ),
    ErrorSpec(
        "DURABILITY_UNAVAILABLE",
        Code.FAILED_PRECONDITION,
        Actor.CALLER,
        "The server has no store for the requested durability.",
        "Request DURABILITY_NONE, or run the server with a store.",
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
        "The server does not have what this method of Triton's protocol is for.",
        "See docs/guides/from-triton.md for what to use instead.",
    ),
    # -- the store
    ErrorSpec(
        "DATA_LOSS",
        Code.DATA_LOSS,
        Actor.OPERATOR,
        "The store has lost steps that it had confirmed, or the whole session.",
        "The operator can restore the newest copy of the store. Otherwise open a new session.",
    ),
    ErrorSpec(
        "SNAPSHOT_DAMAGED",
        Code.DATA_LOSS,
        Actor.OPERATOR,
        "The session's snapshot in the store is damaged, or this server cannot read its version.",
        "Restore the store from a copy, or run the version that wrote it. The session stays in the store.",
    ),
    ErrorSpec(
        "STORE_UNAVAILABLE",
        Code.UNAVAILABLE,
        Actor.RETRY,
        "The store does not answer, or accepts no more data. Nothing was lost.",
        "Try again. If it remains, the operator must check the store: disk space, connection, log.",
    ),
    ErrorSpec(
        "SESSION_HELD",
        Code.UNAVAILABLE,
        Actor.RETRY,
        "Another replica holds the session's lease. Metadata `owner` has its address, where it is known.",
        "Try again. The other replica releases the session when it drains. The lease of a dead one expires.",
    ),
    ErrorSpec(
        "SESSION_PARKED",
        Code.UNAVAILABLE,
        Actor.RETRY,
        "The session was parked just before the call arrived, more than once.",
        "Try again. If it remains, raise `slots` on the server: they are too few for the load.",
    ),
    ErrorSpec(
        "LEASE_LOST",
        Code.UNAVAILABLE,
        Actor.RETRY,
        "The server no longer holds the session's lease, so it has released the session.",
        "Bind the session again, and send the steps that were not durable again.",
    ),
    # -- cursors
    ErrorSpec(
        "SEQUENCE_GAP",
        Code.OUT_OF_RANGE,
        Actor.CALLER,
        "The seq is beyond the next one. Metadata `expected` has the next one.",
        "Send the steps from `expected` on.",
    ),
    ErrorSpec(
        "SEQUENCE_REUSED",
        Code.FAILED_PRECONDITION,
        Actor.CALLER,
        "This seq was accepted before with other inputs.",
        "Give each new step the next seq. Repeat a step only with the same inputs.",
    ),
    ErrorSpec(
        "OUTPUT_FORGOTTEN",
        Code.OUT_OF_RANGE,
        Actor.CALLER,
        "The outputs of this seq were acknowledged, so the server has forgotten them.",
        "Acknowledge an output only after you have saved or used it.",
    ),
    # -- snapshots
    ErrorSpec(
        "SNAPSHOT_INVALID",
        Code.INVALID_ARGUMENT,
        Actor.CALLER,
        "The bytes are not a snapshot, are damaged, or have an unknown version.",
        "Import the bytes of ExportSession unchanged.",
    ),
    ErrorSpec(
        "FINGERPRINT_MISMATCH",
        Code.FAILED_PRECONDITION,
        Actor.CALLER,
        "The snapshot belongs to other weights.",
        "Import it into a server of the same model package.",
    ),
    *OF_THE_SERVER,
)
"""Every reason, in the order of the reference page."""
