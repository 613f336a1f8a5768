"""A generation across the connections that it takes: the caller gets each token once.

A generation in a session of its own is a function of its request as soon as the seed is set: tokens are
drawn by (seed, position). So when its stream breaks, the same request is sent again, to this server or
to the one that replaced it. The tokens that the caller has are compared and passed over. So tokens of a
server with other weights, or one that rounds differently, are never joined to the text.

In a caller's session, the server itself sends the tokens again. The request names its first step, so a
second request feeds nothing twice. While the session moves to another server, the request may have to
wait for the steps before it.
"""

from __future__ import annotations

import math
import random
import secrets
from array import array
from dataclasses import replace

from carousel._error_bases import (
    CarouselError,
    ConnectionLostError,
    ReplayDivergedError,
    ServerUnreachableError,
)
from carousel._errors import DataLossError, SessionNotFoundError
from carousel.types import Token
from carousel_protos.v1 import carousel_pb2 as pb

from .retry import RetryPolicy, RetrySchedule

_SEED_BITS = 63

_MOVING = frozenset(
    (
        "SEQUENCE_GAP",
        "SESSION_BUSY",
        "SESSION_HELD",
        "SESSION_PARKED",
        "STORE_UNAVAILABLE",
        "LEASE_LOST",
        "DRAINING",
    )
)
"""Refusals for a session that moves to another server, or whose steps are being sent again."""

_OF_STEPS_BEFORE = frozenset(("SESSION_BUSY",))
"""Refusals also for steps that this client has the outputs of, and for a generation that it has just left.

Nothing has run, so the request can be sent again even where it names no first step.
"""


class GenerationReplay:
    """The tokens that a caller has, and when to send the request again. Time comes in as an argument."""

    def __init__(
        self,
        request: pb.GenerateRequest,
        policy: RetryPolicy,
        *,
        first_answer_by_s: float,
        deadline_s: float,
        rng: random.Random | None = None,
    ) -> None:
        """Sets the request's seed if it has none and can be repeated.

        Args:
            request: sent as it is, by every call.
            policy: how refused and broken calls are tried again.
            first_answer_by_s: instant until which a call without an answer is tried again.
            deadline_s: instant at which the generation fails; inf for none.
            rng: of the jitter.
        """
        self._session_id = request.session_id
        self._repeatable = not self._session_id or request.first_seq > 0
        if not self._session_id and not request.sampling.HasField("seed"):
            request.sampling.seed = secrets.randbits(_SEED_BITS)
        self._in_session = bool(self._session_id) and self._repeatable
        self._policy = policy
        self._rng = rng
        self._deadline_s = deadline_s
        passing = _OF_STEPS_BEFORE if self._session_id else frozenset[str]()
        self._schedule = RetrySchedule(policy, first_answer_by_s, rng, passing=passing)
        # Ids of the tokens that the caller has, and the text of the last one.
        self._ids = array("q")
        self._last_text = ""
        # How many tokens of the running call have come.
        self._received = 0
        # True from a break until the first token after it. All tries between share one deadline.
        self._behind = False

    @property
    def started(self) -> bool | None:
        """Whether the running call has an answer; None if it has none and cannot be repeated."""
        return self._received > 0 or (False if self._repeatable else None)

    def left_s(self, now_s: float) -> float | None:
        """How long the generation may still take; None for as long as it takes."""
        return None if math.isinf(self._deadline_s) else max(self._deadline_s - now_s, 0.0)

    def call_begins(self) -> None:
        """The request is sent, for the first time or again."""
        self._received = 0

    def take(self, response: pb.GenerateResponse) -> list[Token]:
        """The tokens of a message that the caller does not have yet.

        Raises:
            ReplayDivergedError: a token differs from the one that the caller has at its place.
        """
        fresh = []
        for token in map(Token.of, response.tokens):
            self._received += 1
            if self._received <= len(self._ids):
                fresh += self._known(token)
                continue
            self._behind = False
            self._ids.append(token.id)
            self._last_text = token.text
            fresh.append(token)
        return fresh

    def delay_s(self, error: CarouselError, now_s: float) -> float | None:
        """How long to wait before the request is sent again; None if the generation fails."""
        if not self._ids and not self._received and not self._is_outage(error):
            return self._schedule.delay_s(error, now_s)
        policy = self._policy
        if not self._repeatable or policy.attempts == 1:
            return None
        give_up_s = min(self._deadline_s, now_s + policy.reconnect_s)
        if self._behind and error.reason == "DRAINING":  # the server is there, and will be replaced
            self._schedule.put_off(give_up_s)
        if not self._behind:
            self._behind = True
            passing = _MOVING if self._session_id else frozenset[str]()
            self._schedule = RetrySchedule(
                policy, give_up_s, self._rng, reconnecting=True, passing=passing
            )
        return self._schedule.delay_s(error, now_s)

    def final_error(self, error: CarouselError) -> CarouselError:
        """The error that the caller gets if the request is not sent again."""
        if self._session_id and isinstance(error, SessionNotFoundError):
            text = f"session {self._session_id} is not there any more: it was lost with its server"
            return DataLossError(text, request_id=error.request_id)
        return error

    def _is_outage(self, error: CarouselError) -> bool:
        """Whether the caller's session is away for a while. It is waited for longer than a start."""
        if not self._in_session:
            return False
        if isinstance(error, ConnectionLostError | ServerUnreachableError):
            return True
        if error.reason == "SESSION_BUSY" and not self._behind:
            return False  # another client may use it: worth a few tries
        return error.reason in _MOVING

    def _known(self, token: Token) -> list[Token]:
        """Compares a token that the caller has. Returns the text that it lacked, as a token, if any."""
        place = self._received - 1
        if token.id != self._ids[place]:
            raise ReplayDivergedError(
                f"token {place + 1} was {self._ids[place]} and came again as {token.id}",
                seq=token.seq,
            )
        if self._received < len(self._ids) or not token.text.startswith(self._last_text):
            return []
        # At a generation's end the last token gets the text that the detokenizer still held back.
        rest = token.text[len(self._last_text) :]
        self._last_text = token.text
        return [replace(token, text=rest)] if rest else []
