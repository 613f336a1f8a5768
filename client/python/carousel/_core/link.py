"""The stream to the server: whether there is one, what goes out on it, and when to open the next."""

from __future__ import annotations

import random
from typing import Any

from carousel._error_bases import CarouselError
from carousel_protos.v1 import carousel_pb2 as pb

from .effects import Effects
from .retry import RetryPolicy, backoff_s
from .statistics import Counters
from .tickets import Ticket

DEFAULT_MAX_MESSAGE_BYTES = 4 << 20


class Link:
    """The stream of a client, and what is to be done about the present event.

    Attributes:
        policy: how long a lost server is looked for.
        up: there is a stream.
        idle: there is none, and no lane needs one.
        draining: the server will stop. Nothing new is sent on this stream.
        welcomed: a server has answered since the link was last idle.
        now_s: instant of the present event.
        max_message_bytes: the server's limit.
        counters: what happened so far.
        closed: why the client was closed, if it was.
    """

    def __init__(self, policy: RetryPolicy, rng: random.Random) -> None:
        self.policy = policy
        self.up = self.idle = self.draining = self.welcomed = False
        self.now_s = 0.0
        self.max_message_bytes = DEFAULT_MAX_MESSAGE_BYTES
        self.counters = Counters()
        self.closed: CarouselError | None = None
        self._rng = rng
        self._tries = 0
        self._streams = 0
        self._effects = Effects()

    @property
    def may_bind(self) -> bool:
        """Whether the stream takes new Binds."""
        return self.up and not self.draining

    @property
    def mends(self) -> bool:
        """True if a lost connection is mended at all."""
        return self.policy.attempts != 1 and self.policy.reconnect_s > 0

    def check_open(self) -> None:
        """Raises the error that the client was closed with, if it was."""
        if self.closed is not None:
            raise self.closed

    # -- what is to be done

    def send(self, **message: Any) -> None:
        """Sends an AttachRequest with this field."""
        self._effects.send.append(pb.AttachRequest(**message))

    def end(self, ticket: Ticket) -> None:
        """Wakes the caller that waits for a ticket."""
        self._effects.ended.append(ticket)

    def open_in(self, pause_s: float) -> None:
        """Asks for a new stream."""
        self.idle = False
        self._effects.reconnect_in_s = pause_s

    def take_effects(self, wake_at_s: float | None = None) -> Effects:
        """All that was asked for since the last time; `due` is to be called at `wake_at_s`."""
        effects, self._effects = self._effects, Effects()
        effects.wake_at_s = wake_at_s
        return effects

    # -- what happens

    def opened(self) -> None:
        """A stream was opened."""
        self.up, self.draining = True, False
        self.counters.reconnects += self._streams > 0
        self._streams += 1

    def on_welcome(self, welcome: pb.Welcome) -> None:
        """The server has answered."""
        self.max_message_bytes = welcome.max_message_bytes or self.max_message_bytes
        self.welcomed, self._tries = True, 0

    def on_drain(self, _drain: pb.Drain) -> None:
        """The server will stop."""
        self.counters.drains += not self.draining
        self.draining = True

    def lost(self, now_s: float) -> None:
        """The stream has ended. What was to be sent on it is not sent any more."""
        self.up, self.draining, self.now_s = False, False, now_s
        self._effects.send.clear()

    def reopen(self, error: CarouselError) -> None:
        """Asks for the next stream, after a pause that grows."""
        self.open_in(self.backoff_s(self._tries, error))
        self._tries += 1

    def rest(self) -> None:
        """No lane needs a stream."""
        self.idle, self._tries, self.welcomed = True, 0, False

    def close(self, error: CarouselError) -> None:
        """The client is closed. The first error counts."""
        self.up, self.idle, self.closed = False, False, self.closed or error

    def backoff_s(self, tries: int, error: CarouselError) -> float:
        """How long to wait before a try that comes after so many others."""
        return backoff_s(self.policy, tries, error, self._rng)
