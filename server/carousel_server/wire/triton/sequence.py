"""One sequence: its requests, one after the other, and the session behind them.

Sans-IO on the loop: a request comes in, a command goes to the engine, an answer comes back. At most one
block of the sequence is at the engine at a time; what comes meanwhile goes as one block after it. So a
refused step is known before the next one goes, and no seq is ever used twice.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import NO_DEADLINE
from carousel_server.core.types import OpenSpec, SessionView

from .parameters import DEFAULT_BEGINNING, Beginning, SequenceId

MAX_CHUNK_STEPS = 32
"""Most requests of one sequence in one block; the engine's window may be smaller."""

_STEPPED_BY_OTHERS = frozenset(("SEQUENCE_REUSED", "SEQUENCE_GAP", "OUTPUT_FORGOTTEN"))
"""Refusals of a step because a client of another door has stepped the session, or does so still."""


class Answer(Protocol):
    """Where the outcome of one request goes. Called once, on the loop; must not raise."""

    def done(self, row: bytes) -> None:
        """One output row."""

    def failed(self, error: CarouselError, step: int) -> None:
        """Why there is none; `step` is the place in the sequence that the request would have had."""


class Request:
    """One request of a sequence.

    Attributes:
        start: the sequence begins with it. `opens` says the same once its session is there.
        beginning: of the session that a START opens.
    """

    __slots__ = ("answer", "beginning", "deadline_s", "end", "opens", "row", "start")

    def __init__(
        self,
        row: bytes,
        answer: Answer,
        *,
        start: bool = False,
        end: bool = False,
        deadline_s: float = NO_DEADLINE,
        beginning: Beginning = DEFAULT_BEGINNING,
    ) -> None:
        self.row = row
        self.answer = answer
        self.start = self.opens = start
        self.end = end
        self.deadline_s = deadline_s
        self.beginning = beginning


class SequenceHost(Protocol):
    """Opens, finds, steps and closes the session of a sequence.

    Each verb answers later with one call of the sequence: `opened`, `found`, `stepped` or `refused`, `ended`.
    """

    window_steps: int

    def open(self, sequence: Sequence, spec: OpenSpec) -> None:
        """Binds a session of this id: a new one, or one that is there with the same options."""

    def find(self, sequence: Sequence) -> None:
        """Binds the session that is open under the sequence's id."""

    def send(self, sequence: Sequence) -> None:
        """Steps `running` at the end of this turn of the loop."""

    def close(self, sequence: Sequence) -> None:
        """Closes the session."""

    def leave(self, sequence: Sequence) -> None:
        """The sequence has nothing more to do, and no session."""


class Sequence:
    """The requests of one sequence. Used on the loop only.

    Attributes:
        tenant, model, sequence_id, session_id: whose it is, and its names.
        seat: of its session, for its host.
        bound: True while the session can be stepped.
        ending: True while the session is being closed.
        applied: how many steps have run in its session, as far as is known here.
        whole: False if the session may lack steps that were answered before the START that opened it.
        running: the requests of the block that is at the engine.
    """

    __slots__ = (
        "_begun", "_busy", "_host", "_one_by_one", "_waiting", "applied", "bound", "ending", "model",
        "running", "seat", "sequence_id", "session_id", "tenant",
        "whole",
    )  # fmt: skip

    def __init__(
        self, host: SequenceHost, tenant: str, model: str, sequence_id: SequenceId, session_id: str
    ) -> None:
        self._host = host
        self.tenant, self.model = tenant, model
        self.sequence_id, self.session_id = sequence_id, session_id
        self.seat = 0
        self.bound = False
        self.ending = False
        self.applied = 0
        self.whole = True
        self.running: deque[Request] = deque()
        self._waiting: deque[Request] = deque()
        # What the START of this session asked for; None if that is not known here.
        self._begun: Beginning | None = None
        # A verb other than a step is under way.
        self._busy = False
        # So many requests are sent alone, because a block that held them was refused.
        self._one_by_one = 0

    @property
    def starts(self) -> bool:
        """True if the next request begins the sequence anew."""
        return self._waiting[0].start

    @property
    def resets(self) -> bool:
        """True if `running` begins a sequence in a session that has run another before."""
        return self.running[0].opens and (self.applied > 0 or not self.whole)

    @property
    def idle(self) -> bool:
        """True if nothing waits and nothing is under way."""
        return not (self._busy or self.running or self._waiting)

    @property
    def is_ready(self) -> bool:
        """True if a request can be stepped at once."""
        return self.bound and not (self._busy or self.running or self._waiting or self._one_by_one)

    def step(self, request: Request) -> None:
        """Steps a request without START and END. The sequence is ready."""
        self.running.append(request)
        self._host.send(self)

    def runs(self, seq: int) -> bool:
        """True if a step is one of `running`; 0 is any of them."""
        steps = len(self.running)
        return self.applied < seq <= self.applied + steps if seq else steps > 0

    def take(self, request: Request) -> None:
        """A request comes."""
        self._waiting.append(request)
        if not self._busy and not self.running:
            self._go_on()

    # -- answers of the host

    def opened(self, outcome: SessionView | CarouselError) -> None:
        """The session of a START is bound, or why it is not."""
        self._busy = False
        request = self._waiting[0]
        request.start = False
        if isinstance(outcome, CarouselError):
            self._waiting.popleft()
            request.answer.failed(outcome, 1)
        else:
            self.bound, self.applied, self.whole = True, outcome.applied, outcome.whole
            self._begun = request.beginning
        self._go_on()

    def found(self, outcome: SessionView | CarouselError) -> None:
        """The session of a request without START is bound, or why it is not."""
        self._busy, self._begun = False, None
        if isinstance(outcome, CarouselError):
            self._waiting.popleft().answer.failed(outcome, self.applied + 1)
        else:
            self.bound, self.applied = True, outcome.applied
        self._go_on()

    def stepped(self, row: bytes) -> None:
        """The output of the first of `running`."""
        self.applied += 1
        request = self.running.popleft()
        request.answer.done(row)
        if request.end:
            self._end()
        elif not self.running:
            self._go_on()

    def refused(self, error: CarouselError) -> None:
        """The engine refuses `running`, from some step on; sent alone, the steps tell from which.

        Those before it may have run and wait for the store: asked again, they are answered and not run.
        """
        if len(self.running) > 1:
            self._one_by_one = len(self.running)
            self._take_back()
        else:
            self._refuse(error)
            return
        self._go_on()

    def _refuse(self, error: CarouselError) -> None:
        """The engine refuses a step that was sent alone."""
        again = self.resets and error.reason in _STEPPED_BY_OTHERS
        request = self.running.popleft()
        if again:  # in a session of its own, which nobody else has stepped
            request.start = True
            self._waiting.appendleft(request)
        else:
            request.answer.failed(error, self.applied + 1)
        if request.opens or self.applied == 0:  # what comes next must not run without the START
            self._end()
        else:
            self._go_on()

    def lost(self, error: CarouselError) -> None:
        """The session has left for good: expired, superseded, revoked, drained."""
        self.bound = False
        self._take_back()
        while self._waiting and not self._waiting[0].start:
            self._waiting.popleft().answer.failed(error, self.applied + 1)
        self._go_on()

    def away(self) -> None:
        """The session has gone to the store; the next request fetches it."""
        self.bound = False
        self._take_back()
        if not self._busy:
            self._go_on()

    def ended(self) -> None:
        """The session is closed."""
        self._busy = self.ending = False
        self._go_on()

    # -- what comes next

    def _go_on(self) -> None:
        if not self._waiting:
            if not self.bound:
                self._host.leave(self)
            return
        request = self._waiting[0]
        if request.start and self.bound and self._begun == request.beginning:
            request.start = False  # its step starts from the initial state
        if request.start:
            self._busy = True
            self.bound = False
            durability, initial = request.beginning
            spec = OpenSpec(self.tenant, self.session_id, durability, initial=initial)
            self._host.open(self, spec)
        elif not self.bound:
            self._busy = True
            self._host.find(self)
        else:
            self._fill()
            self._host.send(self)

    def _fill(self) -> None:
        """Moves what can go as one block from `waiting` to `running`."""
        waiting, running = self._waiting, self.running
        running.append(waiting.popleft())
        if self._one_by_one:
            self._one_by_one -= 1
            return
        first, most = running[0], min(MAX_CHUNK_STEPS, self._host.window_steps)
        while waiting and len(running) < most and not running[-1].end:
            request = waiting[0]
            if request.start or request.deadline_s != first.deadline_s:
                return
            running.append(waiting.popleft())

    def _take_back(self) -> None:
        self._waiting.extendleft(reversed(self.running))
        self.running.clear()

    def _end(self) -> None:
        self._busy = self.ending = True
        self.bound = False
        self._host.close(self)
