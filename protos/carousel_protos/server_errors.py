"""The end of the registry of errors: what the server's limits, its time and its faults are the reason of."""

from __future__ import annotations

from .error_specs import Actor, Code, ErrorSpec

OF_THE_SERVER: tuple[ErrorSpec, ...] = (
    # -- limits: the request is refused before it is queued
    ErrorSpec(
        "SLAB_FULL",
        Code.RESOURCE_EXHAUSTED,
        Actor.RETRY,
        "Every slot of the model is in use.",
        "Try again later, close sessions, or raise `slots` on the server.",
    ),
    ErrorSpec(
        "TOO_MANY_SESSIONS",
        Code.RESOURCE_EXHAUSTED,
        Actor.RETRY,
        "The caller has reached its limit of open sessions, or of sessions bound on this stream.",
        "Close sessions, or raise the limit that the message names.",
    ),
    ErrorSpec(
        "TOO_MANY_STREAMS",
        Code.RESOURCE_EXHAUSTED,
        Actor.RETRY,
        "The server has reached its limit of Attach streams.",
        "Share one stream between sessions, or raise max_streams on the server.",
    ),
    ErrorSpec(
        "TOO_MANY_CALLS",
        Code.RESOURCE_EXHAUSTED,
        Actor.RETRY,
        "The server has reached its limit of calls in flight.",
        "Try again after the retry delay. Send fewer calls at a time, or use an Attach stream.",
    ),
    ErrorSpec(
        "QUOTA_EXCEEDED",
        Code.RESOURCE_EXHAUSTED,
        Actor.RETRY,
        "The caller's tenant has reached a quota. QuotaFailure names the tenant and the setting.",
        "Try again after the retry delay. Use less, or ask the operator to raise the setting.",
    ),
    ErrorSpec(
        "WINDOW_EXCEEDED",
        Code.RESOURCE_EXHAUSTED,
        Actor.RETRY,
        "More steps are unacknowledged than the window holds.",
        "Acknowledge outputs. Send at most window_steps beyond ack.",
    ),
    ErrorSpec(
        "QUEUE_FULL",
        Code.RESOURCE_EXHAUSTED,
        Actor.RETRY,
        "The model's queue is full.",
        "Try again after the retry delay, and send less at a time.",
    ),
    # -- time
    ErrorSpec(
        "DEADLINE_EXCEEDED",
        Code.DEADLINE_EXCEEDED,
        Actor.RETRY,
        "The step's deadline passed before it ran. It was not applied.",
        "Send it again with the same seq and a longer deadline.",
    ),
    ErrorSpec(
        "MESSAGE_TIMEOUT",
        Code.DEADLINE_EXCEEDED,
        Actor.RETRY,
        "The whole message of the call did not arrive in time. It was not applied.",
        "Send the message with the call. On slow networks the operator can raise message_timeout_s.",
    ),
    ErrorSpec(
        "DRAINING",
        Code.UNAVAILABLE,
        Actor.RETRY,
        "The server is shutting down and accepts nothing new.",
        "Try again at another replica, or at this one after its restart.",
    ),
    # -- faults of the server
    ErrorSpec(
        "STEP_FAILED",
        Code.INTERNAL,
        Actor.RETRY,
        "The device could not run the step. Every state is as it was before.",
        "Send the step again with the same seq. If it remains, tell the operator.",
    ),
    ErrorSpec(
        "INTERNAL",
        Code.INTERNAL,
        Actor.MAINTAINERS,
        "A defect of the server.",
        "Report the request id. The server's log has the details.",
    ),
)
"""Reasons whose request may be right."""
