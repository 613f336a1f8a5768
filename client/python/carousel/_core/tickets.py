"""What a caller waits for: steps, a Bound, or an Unbound. A ticket ends once, well or with an error."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from carousel._error_bases import CarouselError, ReplyTimeoutError
from carousel_protos.v1 import carousel_pb2 as pb

if TYPE_CHECKING:
    from .lane import Lane

MARKED = 2
"""In the resets of steps: `reset()` was called for the next step, and this one was it."""

Rows = npt.NDArray[np.uint8]


def _no_waiter() -> None:
    """Wakes no caller, where none waits for a ticket."""


class Ticket:
    """One thing that was asked for on a stream.

    Attributes:
        wake: called once at the end, by the thread that feeds the core. It must not call the core.
        error: why it failed.
    """

    def __init__(self) -> None:
        self.wake: Callable[[], None] = _no_waiter
        self.error: CarouselError | None = None

    def check(self) -> None:
        """Raises the error, if it failed. A copy, since several threads may wait for one failure."""
        if self.error is not None:
            raise copy.copy(self.error)

    def overdue(self, timeout_s: float) -> CarouselError:
        """The error of a wait that is over: the store's, if the server has said so of its sessions.

        Safe on any thread. The error does not end the ticket.
        """
        for lane in self._waits_for():
            trouble, said = lane.trouble, lane.store_fault
            if trouble is not None and trouble.error.reason == "STORE_UNAVAILABLE":
                said = trouble.error
            if said is not None:
                return copy.copy(said)
        return ReplyTimeoutError(f"no answer within {timeout_s:.3g} s")

    def _waits_for(self) -> Sequence[Lane]:
        return ()


class BindTicket(Ticket):
    """A session to be bound; `session` and `lane` are set when it went well."""

    def __init__(self, lane: Lane) -> None:
        super().__init__()
        self.lane = lane
        self.session: pb.Session | None = None

    def _waits_for(self) -> Sequence[Lane]:
        return (self.lane,)


class UnbindTicket(Ticket):
    """The handle of `lane` to be given back."""

    def __init__(self, lane: Lane) -> None:
        super().__init__()
        self.lane = lane

    def _waits_for(self) -> Sequence[Lane]:
        return (self.lane,)


class StepTicket(Ticket):
    """The same number of steps of n sessions.

    Attributes:
        lanes: the sessions; none twice.
        inputs: uint8[n, steps, input row bytes].
        resets: uint8[n, steps], not 0 for steps that start from the initial state; None for none.
        outputs: uint8[n, steps, output row bytes], filled as results come.
        first_seqs: the seq of each session's first step.
        sent_steps: how many of `steps` have been sent, in every session that has not failed.
        answered_steps: how many outputs came before a failure, if n is 1.
        errors: why sessions failed, by their place in `lanes`.
        places: place in `lanes` of each handle.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        inputs: Rows,
        output_row_bytes: int,
        timeout_s: float | None,
        places: dict[int, int] | None = None,
        resets: Rows | None = None,
    ) -> None:
        super().__init__()
        n: int = inputs.shape[0]
        self.steps: int = inputs.shape[1]
        assert n == len(lanes)
        self.lanes = lanes
        self.inputs = inputs
        self.resets = resets
        self.timeout_s = timeout_s
        self.outputs: Rows = np.zeros((n, self.steps, output_row_bytes), np.uint8)
        self.first_seqs = [0] * n
        self.sent_steps = 0
        self.answered_steps = 0
        self.errors: dict[int, CarouselError] = {}
        self.places = places or {lane.handle: i for i, lane in enumerate(lanes)}
        self._open_rows = n

    def _waits_for(self) -> Sequence[Lane]:
        return self.lanes

    def last_seq(self, place: int) -> int:
        """The seq of one session's last step."""
        return self.first_seqs[place] + self.steps - 1

    def is_marked(self, place: int, seq: int) -> bool:
        """Whether `reset()` was called for step `seq` of one session."""
        at = seq - self.first_seqs[place]
        return self.resets is not None and at >= 0 and self.resets[place, at] == MARKED

    def row_ended(self) -> bool:
        """One session is done or has failed; true if it was the last."""
        self._open_rows -= 1
        return self._open_rows == 0
