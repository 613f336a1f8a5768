// The reasons of all errors of a server. Made by generate_errors.py: do not edit.

/** Of each reason: its code, the class of its errors, and how to fix it. */
export const REGISTRY = {
  /** The bytes are not a message of this protocol, or the message has no event. */
  MALFORMED_MESSAGE: {
    code: "INVALID_ARGUMENT",
    kind: "InvalidInputError",
    fix: "Use stubs made from carousel.proto. Send Hello first on an Attach stream.",
  },
  /** A field is missing or out of its range. BadRequest names it. */
  FIELD_INVALID: {
    code: "INVALID_ARGUMENT",
    kind: "InvalidInputError",
    fix: "Correct the named field.",
  },
  /** The message is larger than the server accepts. */
  MESSAGE_TOO_LARGE: {
    code: "RESOURCE_EXHAUSTED",
    kind: "InvalidInputError",
    fix: "Send fewer steps or sessions in one message, or raise max_message_bytes on the server.",
  },
  /** The server requires a bearer token. The call has none, or an unknown one. */
  TOKEN_INVALID: {
    code: "UNAUTHENTICATED",
    kind: "UnauthorizedError",
    fix: "Pass the token that the operator gave you: Client(target, token=…).",
  },
  /** The client's certificate is valid, but it belongs to no tenant of the server. */
  CERTIFICATE_UNKNOWN: {
    code: "UNAUTHENTICATED",
    kind: "UnauthorizedError",
    fix: "Use the certificate that the operator gave you. The operator sets its tenant with `certificates`.",
  },
  /** The client's token and certificate belong to different tenants, or two names in the certificate do. */
  IDENTITY_CONFLICT: {
    code: "UNAUTHENTICATED",
    kind: "UnauthorizedError",
    fix: "Use the token and the certificate of one tenant.",
  },
  /** The size of the inputs is not steps × the model's row. */
  INPUT_SHAPE: {
    code: "INVALID_ARGUMENT",
    kind: "InvalidInputError",
    fix: "Send rows of the width of the model's input.",
  },
  /** The declared element type of the inputs is not the model's. */
  INPUT_DTYPE: {
    code: "INVALID_ARGUMENT",
    kind: "InvalidInputError",
    fix: "Convert the inputs to the model's input dtype.",
  },
  /** An input is NaN or infinite. It would damage the session's state for ever. */
  INPUT_NOT_FINITE: {
    code: "INVALID_ARGUMENT",
    kind: "InvalidInputError",
    fix: "Correct the row and send it again with the same seq. The session is unchanged.",
  },
  /** The inputs are finite, but an output or a state after the step would be NaN or infinite. */
  STEP_NOT_FINITE: {
    code: "INVALID_ARGUMENT",
    kind: "InvalidInputError",
    fix: "Send another input with the same seq. The state is as before the step. Check the model's range.",
  },
  /** A token id is outside the model's vocabulary. */
  UNKNOWN_TOKEN: {
    code: "INVALID_ARGUMENT",
    kind: "InvalidInputError",
    fix: "Send ids from 0 to vocabulary-1.",
  },
  /** The sequence or prompt is empty, or longer than the server accepts. */
  SEQUENCE_TOO_LONG: {
    code: "INVALID_ARGUMENT",
    kind: "InvalidInputError",
    fix: "Send fewer steps, stream it through a session, or raise max_sequence_steps on the server.",
  },
  /** The server serves no model of this name. */
  MODEL_NOT_FOUND: {
    code: "NOT_FOUND",
    kind: "NotFoundError",
    fix: "Run `carousel models list --server …` for the names.",
  },
  /** The model is not causal. Its output depends on later inputs, so it cannot stream. */
  MODEL_NOT_CAUSAL: {
    code: "FAILED_PRECONDITION",
    kind: "ConflictError",
    fix: "Send whole sequences with Infer.",
  },
  /** The model's outputs are not logits over its input tokens, so it cannot generate. */
  MODEL_NOT_GENERATIVE: {
    code: "FAILED_PRECONDITION",
    kind: "ConflictError",
    fix: "Use a language model, or send steps.",
  },
  /** The model has no tokenizer, so it accepts no text. */
  TEXT_UNAVAILABLE: {
    code: "FAILED_PRECONDITION",
    kind: "ConflictError",
    fix: "Send token ids.",
  },
  /** The model's device has failed. The server runs no more steps of it. */
  MODEL_UNHEALTHY: {
    code: "UNAVAILABLE",
    kind: "ServerFaultError",
    fix: "The operator must restart the server. Its log has the failure.",
  },
  /** The model has no initial state of this name. Metadata `known` lists those that it has. */
  INITIAL_UNKNOWN: {
    code: "INVALID_ARGUMENT",
    kind: "InvalidInputError",
    fix: "Choose one of these names, or leave the field empty for the default.",
  },
  /** A given state does not fit the model: its name, shape, type or numbers. */
  STATE_INVALID: {
    code: "INVALID_ARGUMENT",
    kind: "InvalidInputError",
    fix: "Send states as Model.states describes them. Numbers must be finite.",
  },
  /** No session of this id is open for this caller. */
  SESSION_NOT_FOUND: {
    code: "NOT_FOUND",
    kind: "NotFoundError",
    fix: "Open a new session. A restarted server has only the sessions in its store.",
  },
  /** The session was idle for longer than its idle_ttl. Its state is gone. */
  SESSION_EXPIRED: {
    code: "NOT_FOUND",
    kind: "NotFoundError",
    fix: "Open a new session, with a longer idle_ttl if pauses are expected.",
  },
  /** The session was closed. */
  SESSION_CLOSED: {
    code: "NOT_FOUND",
    kind: "NotFoundError",
    fix: "Open a new session.",
  },
  /** A session of this id is already open, with other settings. */
  SESSION_EXISTS: {
    code: "ALREADY_EXISTS",
    kind: "ConflictError",
    fix: "Choose another id, or bind to the open session.",
  },
  /** The session is generating. It accepts no steps and no second generation. */
  SESSION_BUSY: {
    code: "FAILED_PRECONDITION",
    kind: "ConflictError",
    fix: "Wait for the generation to end, or cancel it.",
  },
  /** A newer stream or call has bound this session. */
  SUPERSEDED: {
    code: "ABORTED",
    kind: "ConflictError",
    fix: "Use one client per session at a time.",
  },
  /** The handle is not bound on this stream. */
  HANDLE_NOT_BOUND: {
    code: "FAILED_PRECONDITION",
    kind: "ConflictError",
    fix: "Bind the session first.",
  },
  /** The handle is already bound to a session on this stream. */
  HANDLE_IN_USE: {
    code: "FAILED_PRECONDITION",
    kind: "ConflictError",
    fix: "Choose another handle, or unbind it first.",
  },
  /** The server has no store for the requested durability. */
  DURABILITY_UNAVAILABLE: {
    code: "FAILED_PRECONDITION",
    kind: "ConflictError",
    fix: "Request DURABILITY_NONE, or run the server with a store.",
  },
  /** A request of Triton's protocol belongs to a sequence that is not running here. */
  SEQUENCE_NOT_STARTED: {
    code: "INVALID_ARGUMENT",
    kind: "InvalidInputError",
    fix: "Set sequence_start on the first request of a sequence, and after every sequence_end.",
  },
  /** The server does not have what this method of Triton's protocol is for. */
  METHOD_NOT_OFFERED: {
    code: "UNIMPLEMENTED",
    kind: "ConflictError",
    fix: "See docs/guides/from-triton.md for what to use instead.",
  },
  /** The store has lost steps that it had confirmed, or the whole session. */
  DATA_LOSS: {
    code: "DATA_LOSS",
    kind: "ServerFaultError",
    fix: "The operator can restore the newest copy of the store. Otherwise open a new session.",
  },
  /** The session's snapshot in the store is damaged, or this server cannot read its version. */
  SNAPSHOT_DAMAGED: {
    code: "DATA_LOSS",
    kind: "ServerFaultError",
    fix: "Restore the store from a copy, or run the version that wrote it. The session stays in the store.",
  },
  /** The store does not answer, or accepts no more data. Nothing was lost. */
  STORE_UNAVAILABLE: {
    code: "UNAVAILABLE",
    kind: "RefusedError",
    fix: "Try again. If it remains, the operator must check the store: disk space, connection, log.",
  },
  /** Another replica holds the session's lease. Metadata `owner` has its address, where it is known. */
  SESSION_HELD: {
    code: "UNAVAILABLE",
    kind: "RefusedError",
    fix: "Try again. The other replica releases the session when it drains. The lease of a dead one expires.",
  },
  /** The session was parked just before the call arrived, more than once. */
  SESSION_PARKED: {
    code: "UNAVAILABLE",
    kind: "RefusedError",
    fix: "Try again. If it remains, raise `slots` on the server: they are too few for the load.",
  },
  /** The server no longer holds the session's lease, so it has released the session. */
  LEASE_LOST: {
    code: "UNAVAILABLE",
    kind: "RefusedError",
    fix: "Bind the session again, and send the steps that were not durable again.",
  },
  /** The seq is beyond the next one. Metadata `expected` has the next one. */
  SEQUENCE_GAP: {
    code: "OUT_OF_RANGE",
    kind: "ConflictError",
    fix: "Send the steps from `expected` on.",
  },
  /** This seq was accepted before with other inputs. */
  SEQUENCE_REUSED: {
    code: "FAILED_PRECONDITION",
    kind: "ConflictError",
    fix: "Give each new step the next seq. Repeat a step only with the same inputs.",
  },
  /** The outputs of this seq were acknowledged, so the server has forgotten them. */
  OUTPUT_FORGOTTEN: {
    code: "OUT_OF_RANGE",
    kind: "ConflictError",
    fix: "Acknowledge an output only after you have saved or used it.",
  },
  /** The bytes are not a snapshot, are damaged, or have an unknown version. */
  SNAPSHOT_INVALID: {
    code: "INVALID_ARGUMENT",
    kind: "InvalidInputError",
    fix: "Import the bytes of ExportSession unchanged.",
  },
  /** The snapshot belongs to other weights. */
  FINGERPRINT_MISMATCH: {
    code: "FAILED_PRECONDITION",
    kind: "ConflictError",
    fix: "Import it into a server of the same model package.",
  },
  /** Every slot of the model is in use. */
  SLAB_FULL: {
    code: "RESOURCE_EXHAUSTED",
    kind: "RefusedError",
    fix: "Try again later, close sessions, or raise `slots` on the server.",
  },
  /** The caller has reached its limit of open sessions, or of sessions bound on this stream. */
  TOO_MANY_SESSIONS: {
    code: "RESOURCE_EXHAUSTED",
    kind: "RefusedError",
    fix: "Close sessions, or raise the limit that the message names.",
  },
  /** The server has reached its limit of Attach streams. */
  TOO_MANY_STREAMS: {
    code: "RESOURCE_EXHAUSTED",
    kind: "RefusedError",
    fix: "Share one stream between sessions, or raise max_streams on the server.",
  },
  /** The server has reached its limit of calls in flight. */
  TOO_MANY_CALLS: {
    code: "RESOURCE_EXHAUSTED",
    kind: "RefusedError",
    fix: "Try again after the retry delay. Send fewer calls at a time, or use an Attach stream.",
  },
  /** The caller's tenant has reached a quota. QuotaFailure names the tenant and the setting. */
  QUOTA_EXCEEDED: {
    code: "RESOURCE_EXHAUSTED",
    kind: "RefusedError",
    fix: "Try again after the retry delay. Use less, or ask the operator to raise the setting.",
  },
  /** More steps are unacknowledged than the window holds. */
  WINDOW_EXCEEDED: {
    code: "RESOURCE_EXHAUSTED",
    kind: "RefusedError",
    fix: "Acknowledge outputs. Send at most window_steps beyond ack.",
  },
  /** The model's queue is full. */
  QUEUE_FULL: {
    code: "RESOURCE_EXHAUSTED",
    kind: "RefusedError",
    fix: "Try again after the retry delay, and send less at a time.",
  },
  /** The step's deadline passed before it ran. It was not applied. */
  DEADLINE_EXCEEDED: {
    code: "DEADLINE_EXCEEDED",
    kind: "RefusedError",
    fix: "Send it again with the same seq and a longer deadline.",
  },
  /** The whole message of the call did not arrive in time. It was not applied. */
  MESSAGE_TIMEOUT: {
    code: "DEADLINE_EXCEEDED",
    kind: "RefusedError",
    fix: "Send the message with the call. On slow networks the operator can raise message_timeout_s.",
  },
  /** The server is shutting down and accepts nothing new. */
  DRAINING: {
    code: "UNAVAILABLE",
    kind: "RefusedError",
    fix: "Try again at another replica, or at this one after its restart.",
  },
  /** The device could not run the step. Every state is as it was before. */
  STEP_FAILED: {
    code: "INTERNAL",
    kind: "RefusedError",
    fix: "Send the step again with the same seq. If it remains, tell the operator.",
  },
  /** A defect of the server. */
  INTERNAL: {
    code: "INTERNAL",
    kind: "ServerFaultError",
    fix: "Report the request id. The server's log has the details.",
  },
} as const;

/** A reason that this client knows. */
export type ServerReason = keyof typeof REGISTRY;
