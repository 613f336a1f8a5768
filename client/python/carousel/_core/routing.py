"""Which server a lane looks for its session at: its owner, where a server says, or the next one in rank."""

from __future__ import annotations

import re

from carousel._error_bases import CarouselError

from .addresses import Addresses
from .lane import Lane, Route
from .link import Link, Links

ELSEWHERE = frozenset(
    ("DRAINING", "LEASE_LOST", "MODEL_UNHEALTHY", "QUEUE_FULL", "SLAB_FULL", "STORE_UNAVAILABLE")
)
"""Refusals of one server that say nothing about the others."""

OWNED = frozenset(("SESSION_HELD", "LEASE_LOST"))
"""Refusals whose metadata `owner` has the address of the server that has the session."""

_ADDRESS = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.%\w]+\]):[0-9]{1,5}", re.ASCII)


def is_address(text: str) -> bool:
    """Whether a text is host:port. gRPC's other targets are not taken from a server."""
    return _ADDRESS.fullmatch(text) is not None


class Routing:
    """Moves lanes from link to link. With one server, every lane stays where it is."""

    def __init__(self, links: Links, addresses: Addresses) -> None:
        self._links = links
        self._addresses = addresses

    def first(self, session_id: str) -> Link:
        """Where to look for a session at first."""
        addresses, now_s = self._addresses, self._links.now_s
        best = (
            addresses.best(session_id, now_s, self._links.draining) if addresses.several else None
        )
        return self._links.of(best or addresses.place(session_id, now_s))

    def arrived(self, lane: Lane) -> None:
        """The session is bound."""
        moved_at_s, lane.route = lane.route.moved_at_s, Route()
        self._links.leave(self._addresses.known)
        if moved_at_s is not None:
            self._links.counters.move_pauses_s.append(self._links.now_s - moved_at_s)

    def moved(self, lane: Lane, address: str) -> None:
        """The server has handed the session over, to `address` if that is one."""
        self._links.counters.moves += 1
        route = lane.route
        if route.moved_at_s is None:
            route.moved_at_s = self._links.now_s
        if self._is_usable(address, lane):
            self._go(lane, address)
        else:
            self._go_on(lane, {lane.link.address})

    def redirected(self, lane: Lane, error: CarouselError) -> bool:
        """Another server has the session: goes there. True if the lane should be bound again at once.

        Where its holder cannot be reached, the server is asked to take the session over.
        """
        route, owner = lane.route, error.metadata.get("owner", "")
        if not self._links.follows or error.reason not in OWNED or not lane.movable:
            return False
        if self._is_usable(owner, lane):
            self._links.counters.redirects += 1
            route.redirects += 1
            route.take_over = False
            self._go(lane, owner)
            return route.redirects <= len(self._addresses.known)  # else they contradict each other
        if error.reason != "SESSION_HELD":
            return False
        again = not route.take_over
        route.take_over = True
        return again

    def refused(self, lane: Lane, error: CarouselError | None) -> bool:
        """The server takes nothing now, by its error or because it drains.

        True if the lane goes on to another one, False if all have refused.
        """
        reason = "" if error is None else error.reason
        passes_on = reason in ELSEWHERE or lane.link.draining
        if not (self._links.follows and lane.movable and passes_on):
            return False
        route = lane.route
        route.refused.add(lane.link.address)
        if reason == "DRAINING":
            self._addresses.failed(lane.link.address, self._links.now_s)
        if self._go_on(lane, route.refused):
            return True
        route.refused.clear()
        return False

    def lost(self, lane: Lane, *, drained: bool) -> bool:
        """The server is gone. True if the lane goes on to another one."""
        if not (self._links.follows and lane.movable):
            return False
        held = lane.facts.bound or lane.route.redirects > 0
        lane.route.take_over = lane.route.take_over or (held and not drained)
        return self._go_on(lane, {lane.link.address})

    def _is_usable(self, address: str, lane: Lane) -> bool:
        return (
            is_address(address)
            and address != lane.link.address
            and address not in self._links.draining
            and not self._addresses.is_away(address, self._links.now_s)
        )

    def _go_on(self, lane: Lane, avoid: set[str]) -> bool:
        avoid = avoid | self._links.draining
        other = self._addresses.best(lane.session_id, self._links.now_s, avoid)
        if other is None:
            return False
        self._go(lane, other)
        return True

    def _go(self, lane: Lane, address: str) -> None:
        lane.link.lanes.pop(lane.handle, None)
        lane.link = self._links.of(address)
        lane.link.lanes[lane.handle] = lane
