"""The lanes of a client and how each is bound: on a new stream, after a refusal, behind a fence."""

from __future__ import annotations

import random
from collections.abc import Callable

from carousel._error_bases import CarouselError, ClientSideError, ConnectionLostError
from carousel_protos.v1 import carousel_pb2 as pb

from .effects import Effects
from .lane import Lane, Trouble
from .lifecycle import LaneEvent
from .retry import RetryPolicy, backoff_s
from .statistics import Counters

ATTACH_BITS = 16
"""Of an attach id: it counts the Binds of one attachment. Above them is the time of the attachment."""


class Lanes:
    """Which lanes there are, and the Binds and Unbinds that they need.

    Attributes:
        draining: the server has said that it will stop: nothing new is sent on this stream.
    """

    def __init__(
        self, policy: RetryPolicy, rng: random.Random, attach_id: Callable[[], int]
    ) -> None:
        self._policy = policy
        self._rng = rng
        self._attach_id = attach_id
        self._counters = Counters()
        self._lanes: dict[int, Lane] = {}
        # Those of them with a Trouble, by handle.
        self._troubled: dict[int, Lane] = {}
        self._next_handle = 1
        self._last_major = 0
        self._now_s = 0.0
        self._up = False
        self.draining = False

    @property
    def next_due_s(self) -> float | None:
        """When `due` has something to do; None: never, as things are."""
        instants = []
        for lane in self._troubled.values():
            assert lane.trouble is not None
            instants.append(lane.trouble.until_s)
            if lane.trouble.retry_at_s is not None and self._may_bind:
                instants.append(lane.trouble.retry_at_s)
        return min(instants, default=None)

    @property
    def _may_bind(self) -> bool:
        return self._up and not self.draining

    def _new_lane(self) -> Lane:
        # A handle is never used twice, so that a late message cannot reach another session.
        lane = Lane(self._next_handle, attach_id=self._major(0) << ATTACH_BITS)
        self._next_handle += 1
        self._lanes[lane.handle] = lane
        return lane

    def _major(self, above: int) -> int:
        """Names an attachment: higher than all before, and than `above`."""
        self._last_major = max(self._attach_id(), self._last_major + 1, above + 1)
        return self._last_major

    # -- binding

    def _bind(self, lane: Lane, effects: Effects) -> None:
        """Binds a lane now, or as soon as a stream allows it."""
        if not self._may_bind:
            return
        lane.advance(LaneEvent.BIND)
        lane.attach_id += 1
        bind = pb.Bind(handle=lane.handle, epoch_floor=lane.epoch, attach_id=lane.attach_id)
        if lane.opens is None or lane.bound_before or lane.leaving is not None:
            bind.session_id = lane.session_id
        else:
            bind.open.CopyFrom(lane.opens)
        effects.send.append(pb.AttachRequest(bind=bind))
        if lane.trouble is not None:
            lane.trouble.retry_at_s = None

    def _fence(self, lane: Lane, effects: Effects) -> None:
        """Unbinds and binds again: only so is it known which steps have run, and none is late."""
        lane.advance(LaneEvent.FENCE)
        self._send_unbind(lane, effects, close=False)

    @staticmethod
    def _send_unbind(lane: Lane, effects: Effects, *, close: bool) -> None:
        unbind = pb.Unbind(handle=lane.handle, close=close)
        effects.send.append(pb.AttachRequest(unbind=unbind))

    # -- trouble

    def _come_again(self, lane: Lane, event: LaneEvent, error: CarouselError) -> None:
        """Binds a lane again after a while: at the next stream at the latest."""
        lane.advance(event)
        if self.draining:
            return  # this stream will end, and no other is to be had before
        pause_s = backoff_s(self._policy, lane.tries, error, self._rng)
        lane.tries += 1
        self._trouble(lane, error).retry_at_s = self._now_s + pause_s

    def _trouble(self, lane: Lane, error: CarouselError) -> Trouble:
        """The clock of a lane's patience starts, unless it runs."""
        if lane.trouble is None:
            lane.trouble = Trouble(error, self._now_s + self._policy.reconnect_s)
            self._troubled[lane.handle] = lane
        lane.trouble.error = error
        return lane.trouble

    def _wait_from_now(self, lane: Lane) -> None:
        """A lane's patience begins here: the server was there until now, and drained."""
        if lane.trouble is not None:
            lane.trouble.until_s = self._now_s + self._policy.reconnect_s

    def _recovered(self, lane: Lane) -> None:
        lane.trouble = None
        self._troubled.pop(lane.handle, None)

    def _last_word(self, trouble: Trouble, *, bound_before: bool) -> CarouselError:
        """The error of a lane whose patience is over."""
        error = trouble.error
        if not bound_before or not isinstance(error, ClientSideError):
            return error
        return ConnectionLostError(
            f"the server was not found again within reconnect_s={self._policy.reconnect_s:g} s: "
            f"{error.message}"
        )
