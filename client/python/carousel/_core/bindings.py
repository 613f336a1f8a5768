"""The lanes of a client and how each is bound: on a new stream, after a refusal, behind a fence."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from carousel._error_bases import CarouselError, ClientSideError, ConnectionLostError
from carousel_protos.v1 import carousel_pb2 as pb

from .lane import Lane, Trouble
from .lifecycle import LaneEvent
from .link import Links
from .routing import Routing

ATTACH_BITS = 16
"""Of an attach id: it counts the Binds of one attachment. Above them is the time of the attachment."""


class Bindings:
    """The table of lanes, and the Binds and Unbinds that they need.

    Attributes:
        lanes: those that live, by handle.
    """

    def __init__(self, links: Links, routing: Routing, attach_id: Callable[[], int]) -> None:
        self.lanes: dict[int, Lane] = {}
        self._links = links
        self._routing = routing
        self._attach_id = attach_id
        # Those of the lanes with a Trouble, by handle.
        self._troubled: dict[int, Lane] = {}
        self._next_handle = 1
        self._last_major = 0

    def new_lane(self, session_id: str, address: str = "") -> Lane:
        """A lane with a handle of its own. Late messages of another session cannot reach it."""
        link = self._links.of(address) if address else self._routing.first(session_id)
        lane = Lane(self._next_handle, 0, link, session_id=session_id)
        self.rename(lane)
        self._next_handle += 1
        self.lanes[lane.handle] = link.lanes[lane.handle] = lane
        return lane

    def remove(self, lane: Lane) -> None:
        """The lane's life is over."""
        self.lanes.pop(lane.handle, None)
        lane.link.lanes.pop(lane.handle, None)
        self.recovered(lane)

    def rename(self, lane: Lane, above: int = 0) -> None:
        """Gives a lane an attach id that is higher than all before, and than `above`."""
        above_major = above >> ATTACH_BITS
        self._last_major = max(self._attach_id(), self._last_major + 1, above_major + 1)
        lane.attach_id = self._last_major << ATTACH_BITS

    @staticmethod
    def was_asked_for(lane: Lane) -> bool:
        """Whether the server may know of the lane's session from here."""
        return lane.facts.bound or lane.attach_id % (1 << ATTACH_BITS) > 0

    # -- messages

    def bind(self, lane: Lane) -> None:
        """Binds a waiting lane now, if its stream allows it; else the next stream does."""
        if not lane.link.may_bind:
            lane.link.want()
            if lane.may_ask:  # the server drains, and no other one is there just now
                self._ask_later(
                    lane, ConnectionLostError("its server stops, and no other was found")
                )
            return
        lane.advance(LaneEvent.BIND)
        lane.attach_id += 1
        bind = pb.Bind(handle=lane.handle, epoch_floor=lane.facts.epoch, attach_id=lane.attach_id)
        bind.take_over = lane.route.take_over
        if lane.opens is None or lane.facts.bound or lane.leaving is not None:
            bind.session_id = lane.session_id
        else:
            bind.open.CopyFrom(lane.opens)
        lane.link.send(bind=bind)
        if lane.trouble is not None:
            lane.trouble.retry_at_s = None

    def fence(self, lane: Lane) -> None:
        """Unbinds and binds again. Only so is it known which steps have run, and none is late."""
        lane.advance(LaneEvent.FENCE)
        self.unbind(lane, close=False)

    def unbind(self, lane: Lane, *, close: bool) -> None:
        """Sends the Unbind of a lane."""
        lane.link.send(unbind=pb.Unbind(handle=lane.handle, close=close))

    # -- trouble

    @property
    def next_due_s(self) -> float | None:
        """When a lane is to be bound again, or ends; None: never, as things are."""
        if not self._troubled:
            return None
        instants = []
        for lane in self._troubled.values():
            assert lane.trouble is not None
            instants.append(lane.trouble.until_s)
            if lane.trouble.retry_at_s is not None and lane.may_ask:
                instants.append(lane.trouble.retry_at_s)
        return min(instants)

    def due(self) -> Iterator[Lane]:
        """The lanes whose pause is over. Each is to be bound again."""
        for lane in list(self._troubled.values()):
            trouble = lane.trouble if lane.may_ask else None
            at_s = None if trouble is None else trouble.retry_at_s
            if trouble is not None and at_s is not None and at_s <= self._links.now_s:
                trouble.retry_at_s = None
                yield lane

    def overdue(self) -> Iterator[tuple[Lane, CarouselError]]:
        """The lanes that were not bound in time, with the error that each ends with."""
        for lane in list(self._troubled.values()):
            trouble = lane.trouble
            if trouble is not None and trouble.until_s <= self._links.now_s:
                yield lane, self._last_word(lane, trouble.error)

    def put_off(self, lane: Lane, event: LaneEvent, error: CarouselError) -> None:
        """Binds a lane again after a pause, or on the next stream."""
        lane.advance(event)
        self.trouble(lane, error)
        if lane.link.draining and not lane.may_ask:
            return  # this stream will end, and there is no other before
        lane.link.want()
        self._ask_later(lane, error)

    def _ask_later(self, lane: Lane, error: CarouselError) -> None:
        trouble = lane.trouble or self.trouble(lane, error)
        pause_s = self._links.backoff_s(lane.tries, error)
        lane.tries += 1
        trouble.retry_at_s = self._links.now_s + pause_s

    def go_on(self, lane: Lane, event: LaneEvent, error: CarouselError) -> None:
        """Binds a lane at another server, or there again, at once."""
        lane.advance(event)
        self.trouble(lane, error).retry_at_s = None
        self.bind(lane)

    def cut_off(self, lane: Lane, error: CarouselError, *, drained: bool) -> None:
        """The lane's stream has ended. A drain renews the time in which it must be bound again."""
        lane.advance(LaneEvent.CUT_OFF)
        trouble = self.trouble(lane, error)
        trouble.retry_at_s = None
        if drained:
            trouble.until_s = self._links.now_s + self._links.policy.reconnect_s

    def trouble(self, lane: Lane, error: CarouselError) -> Trouble:
        """The time in which a lane must be bound again begins, unless it has begun."""
        if lane.trouble is None:
            until_s = self._links.now_s + self._links.policy.reconnect_s
            lane.trouble = Trouble(error, until_s)
            self._troubled[lane.handle] = lane
        lane.trouble.error = error
        return lane.trouble

    def recovered(self, lane: Lane) -> None:
        """The lane is bound."""
        lane.trouble = None
        self._troubled.pop(lane.handle, None)

    def _last_word(self, lane: Lane, error: CarouselError) -> CarouselError:
        if not lane.facts.bound or not isinstance(error, ClientSideError):
            return error
        return ConnectionLostError(
            "the server was not found again within "
            f"reconnect_s={self._links.policy.reconnect_s:g} s: {error.message}"
        )
