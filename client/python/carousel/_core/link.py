"""The streams to the servers: whether there is one, what goes out on it, and when to open the next."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from carousel._error_bases import CarouselError
from carousel_protos.v1 import carousel_pb2 as pb

from .effects import Effects
from .retry import RetryPolicy, backoff_s
from .statistics import Counters
from .tickets import Ticket

if TYPE_CHECKING:
    from .lane import Lane

DEFAULT_MAX_MESSAGE_BYTES = 4 << 20


class Links:
    """The links of a client by address, and what is to be done about the present event.

    Attributes:
        policy: how long a lost server is looked for.
        follows: the client has several servers, so its sessions may move.
        now_s: instant of the present event.
        counters: what happened so far.
        closed: why the client was closed, if it was.
    """

    def __init__(self, policy: RetryPolicy, rng: random.Random, *, follows: bool = False) -> None:
        self.policy = policy
        self.follows = follows
        self.now_s = 0.0
        self.counters = Counters()
        self.closed: CarouselError | None = None
        self.effects = Effects()
        self._rng = rng
        self._by_address: dict[str, Link] = {}

    def of(self, address: str) -> Link:
        """The link to a server. A new one is idle."""
        link = self._by_address.get(address)
        if link is None:
            link = self._by_address[address] = Link(address, self)
        return link

    @property
    def mends(self) -> bool:
        """True if a lost connection is mended at all."""
        return self.policy.attempts != 1 and self.policy.reconnect_s > 0

    @property
    def draining(self) -> set[str]:
        """Addresses of servers that have said that they will stop, and have not yet."""
        return {link.address for link in self._by_address.values() if link.draining}

    def check_open(self) -> None:
        """Raises the error that the client was closed with, if it was."""
        if self.closed is not None:
            raise self.closed

    def end(self, ticket: Ticket) -> None:
        """Wakes the caller that waits for a ticket."""
        self.effects.ended.append(ticket)

    def take_effects(self, wake_at_s: float | None = None) -> Effects:
        """All that was asked for since the last time; `due` is to be called at `wake_at_s`."""
        effects, self.effects = self.effects, Effects()
        effects.wake_at_s = wake_at_s
        return effects

    def close(self, error: CarouselError) -> None:
        """The client is closed. The first error counts."""
        self.closed = self.closed or error
        for link in self._by_address.values():
            link.up = link.idle = False

    def leave(self, known: tuple[str, ...]) -> None:
        """Leaves the servers that are no longer known and where no lane is, unless a try is under way."""
        for link in list(self._by_address.values()):
            if link.address in known or link.lanes or not (link.up or link.idle):
                continue
            self.effects.leave.append(link.address)
            del self._by_address[link.address]

    def backoff_s(self, tries: int, error: CarouselError) -> float:
        """How long to wait before a try that comes after so many others."""
        return backoff_s(self.policy, tries, error, self._rng)


class Link:
    """The stream to one server.

    Attributes:
        address: of the server.
        lanes: those whose sessions are there, or are looked for there, by handle.
        up: there is a stream.
        idle: there is none, and no lane needs one.
        draining: the server will stop.
        greeted: the server has answered on this stream.
        welcomed: the server has answered since the link was last idle.
        max_message_bytes: the server's limit.
    """

    def __init__(self, address: str, links: Links) -> None:
        self.address = address
        self.lanes: dict[int, Lane] = {}
        self.up = self.draining = self.greeted = self.welcomed = False
        self.idle = True
        self.max_message_bytes = DEFAULT_MAX_MESSAGE_BYTES
        self._links = links
        self._tries = 0
        self._streams = 0

    @property
    def may_bind(self) -> bool:
        """Whether the stream takes new Binds."""
        return self.up and not self.draining

    @property
    def hands_over(self) -> bool:
        """Whether the server may hand sessions over to others, and so tells this client."""
        return self._links.follows

    # -- what is to be done

    def send(self, **message: Any) -> None:
        """Sends an AttachRequest with this field. Does nothing without a stream."""
        if not self.up:
            return
        outgoing = self._links.effects.send.setdefault(self.address, [])
        outgoing.append(pb.AttachRequest(**message))

    def want(self) -> None:
        """Asks for a stream, unless there is one or it was asked for."""
        if self.idle:
            self._open_in(0.0)

    def _open_in(self, pause_s: float) -> None:
        self.idle = False
        self._links.effects.connect[self.address] = pause_s

    # -- what happens

    def opened(self) -> None:
        """A stream was opened."""
        self.up, self.idle, self.draining, self.greeted = True, False, False, False
        self._links.counters.reconnects += self._streams > 0
        self._streams += 1

    def on_welcome(self, welcome: pb.Welcome) -> None:
        """The server has answered."""
        self.max_message_bytes = welcome.max_message_bytes or self.max_message_bytes
        self.greeted, self.welcomed, self._tries = True, True, 0

    def on_drain(self, _drain: pb.Drain) -> None:
        """The server will stop."""
        self._links.counters.drains += not self.draining
        self.draining = True

    def lost(self, now_s: float) -> None:
        """The stream has ended. What was to be sent on it is not sent any more."""
        self.up = self.draining = self.greeted = False
        self._links.now_s = now_s
        self._links.effects.send.pop(self.address, None)

    def reopen(self, error: CarouselError) -> None:
        """Asks for the next stream, after a pause that grows."""
        self._open_in(self._links.backoff_s(self._tries, error))
        self._tries += 1

    def rest(self) -> None:
        """No lane needs a stream."""
        self.idle, self._tries, self.welcomed = True, 0, False
