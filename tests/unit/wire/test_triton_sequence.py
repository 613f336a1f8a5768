"""One sequence as a machine: whatever the ground does, every request is answered once, in order.

The model is a session that adds its inputs up; the ground refuses, parks and loses sessions at random.
"""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from carousel_server.core.errors import CarouselError
from carousel_server.core.types import Durability
from carousel_server.wire.triton.sequence import Request, Sequence

BAD = 99
"""The input that the engine refuses."""

REFUSED, LOST = CarouselError("INPUT_NOT_FINITE", "bad"), CarouselError("SESSION_EXPIRED", "gone")
ABSENT = CarouselError("SEQUENCE_NOT_STARTED", "no START")


class View:
    """As much of a SessionView as a sequence reads."""

    def __init__(self, applied):
        self.applied = applied


class Ground:
    """Answers when the test turns it; keeps the session's total."""

    window_steps = 4

    def __init__(self):
        self.asked = deque()
        self.total = None
        self.applied = 0
        self.blocks = []
        self.left = 0

    def open(self, sequence, spec):
        self.asked.append(("open", sequence))

    def find(self, sequence):
        self.asked.append(("find", sequence))

    def send(self, sequence):
        self.asked.append(("send", sequence))

    def close(self, sequence):
        self.asked.append(("close", sequence))

    def leave(self, sequence):
        self.left += 1

    def turn(self):
        """Answers one verb."""
        if not self.asked:
            return
        verb, sequence = self.asked.popleft()
        getattr(self, f"_{verb}")(sequence)

    def _open(self, sequence):
        self.total, self.applied = 0, 0
        sequence.opened(None)

    def _find(self, sequence):
        if self.total is None:
            sequence.found(ABSENT)
        else:
            sequence.found(View(self.applied))

    def _close(self, sequence):
        self.total = None
        sequence.ended()

    def _send(self, sequence):
        if not sequence.bound or not sequence.running:
            return  # lost or parked before its turn
        block = [int.from_bytes(request.row) for request in sequence.running]
        self.blocks.append(block)
        assert len(block) <= self.window_steps
        assert sequence.applied == self.applied
        if BAD in block:
            sequence.refused(REFUSED)
            return
        for value in block:
            self.total += value
            self.applied += 1
            sequence.stepped(self.total.to_bytes(8))


class Answer:
    def __init__(self, log, number):
        self.log, self.number = log, number

    def done(self, row):
        self.log.append((self.number, int.from_bytes(row)))

    def failed(self, error, step):
        self.log.append((self.number, error.reason))


class Rig:
    def __init__(self):
        self.ground, self.log, self.sent = Ground(), [], 0
        self.sequence = Sequence(self.ground, "t", "m", 7, "triton:m:7")

    def ask(self, value, *, start=False, end=False):
        answer = Answer(self.log, self.sent)
        self.sent += 1
        self.sequence.take(
            Request(
                value.to_bytes(1), answer, start=start, end=end, deadline_s=1e9,
                durability=Durability.UNSPECIFIED,
            )
        )  # fmt: skip

    def settle(self):
        while self.ground.asked:
            self.ground.turn()


def expected(requests):
    """What each request gives if nothing is lost: totals, or why not."""
    total = None
    for value, start, end in requests:
        if start:
            total, applied = 0, 0
        if total is None:
            yield "SEQUENCE_NOT_STARTED"
        elif value == BAD:
            if applied == 0:
                total = None
            yield "INPUT_NOT_FINITE"
        else:
            total, applied = total + value, applied + 1
            yield total
            if end:
                total = None


REQUESTS = st.lists(
    st.tuples(st.sampled_from([1, 2, 3, 5, BAD]), st.booleans(), st.booleans()), max_size=24
)


@given(REQUESTS, st.lists(st.integers(0, 3), max_size=24))
@settings(max_examples=300)
def test_pipelined_or_not_the_answers_are_those_of_one_after_the_other(requests, turns):
    rig = Rig()
    for n, (value, start, end) in enumerate(requests):
        rig.ask(value, start=start, end=end)
        for _ in range(turns[n] if n < len(turns) else 0):
            rig.ground.turn()
    rig.settle()
    assert [outcome for _, outcome in rig.log] == list(expected(requests))
    assert [number for number, _ in rig.log] == list(range(len(requests)))
    assert rig.sequence.idle


@given(REQUESTS, st.lists(st.sampled_from(["turn", "park", "lose"]), max_size=48))
@settings(max_examples=300)
def test_parked_or_lost_every_request_is_answered_once_and_in_order(requests, events):
    rig, events = Rig(), deque(events)
    for value, start, end in requests:
        rig.ask(value, start=start, end=end)
        for _ in range(2):
            event = events.popleft() if events else "turn"
            if event == "turn":
                rig.ground.turn()
            elif rig.sequence.bound and event == "park":
                rig.sequence.away()
            elif rig.sequence.bound:
                rig.ground.total = None
                rig.sequence.lost(LOST)
    rig.settle()
    assert [number for number, _ in rig.log] == list(range(len(requests)))
    assert rig.sequence.idle


def test_a_block_with_a_bad_step_is_taken_apart():
    rig = Rig()
    rig.ask(1, start=True)
    rig.settle()
    for value in (2, BAD, 3, 5):
        rig.ask(value)
    rig.settle()
    assert rig.ground.blocks == [[1], [2], [BAD, 3, 5], [BAD], [3], [5]]
    assert rig.log[1:] == [(1, 3), (2, "INPUT_NOT_FINITE"), (3, 6), (4, 11)]


def test_a_sequence_that_is_over_leaves():
    rig = Rig()
    rig.ask(1, start=True, end=True)
    rig.settle()
    assert rig.ground.left == 1
    assert not rig.sequence.bound
