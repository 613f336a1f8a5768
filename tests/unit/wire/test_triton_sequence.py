"""One sequence as a machine: whatever the ground does, every request is answered once, in order.

The model is a session that adds its inputs up; the ground refuses, parks and loses sessions at random.
"""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carousel_server.core.errors import CarouselError
from carousel_server.core.types import Durability, Phase, SessionView
from carousel_server.wire.triton.parameters import Beginning
from carousel_server.wire.triton.sequence import Request, Sequence

BAD = 99
"""The input that the engine refuses."""

REFUSED, LOST = CarouselError("INPUT_NOT_FINITE", "bad"), CarouselError("SESSION_EXPIRED", "gone")
ABSENT = CarouselError("SEQUENCE_NOT_STARTED", "no START")


def view(applied):
    """As much of a SessionView as a sequence reads."""
    return SessionView(
        id="", model="", phase=Phase.RESIDENT, applied=applied, ack=0, durable=0, epoch=1,
        durability=Durability.NONE, idle_ttl_s=1.0, created_at_unix_s=0.0, fingerprint="",
        window_steps=4, seed=0,
    )  # fmt: skip


class Ground:
    """Answers when the test turns it; keeps the session's total, steps and durability."""

    window_steps = 4

    def __init__(self):
        self.asked = deque()
        self.total = None
        self.applied = 0
        self.blocks = []
        self.resets = []
        self.opened = 0
        self.left = 0

    def open(self, sequence, spec):
        self.asked.append(("open", sequence))
        self.spec = spec

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
        asked = self.spec.durability, self.spec.initial
        if self.total is None or (self.durability, self.initial) != asked:
            self.total, self.applied = 0, 0
            self.durability, self.initial = asked
            self.opened += 1
        sequence.opened(view(self.applied))

    def _find(self, sequence):
        if self.total is None:
            sequence.found(ABSENT)
        else:
            sequence.found(view(self.applied))

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
        if sequence.resets:
            self.resets.append(self.applied + 1)
            self.total = 0
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

    def ask(self, value, *, start=False, end=False, durability=Durability.UNSPECIFIED, initial=""):
        answer = Answer(self.log, self.sent)
        self.sent += 1
        self.sequence.take(
            Request(
                value.to_bytes(1), answer, start=start, end=end, deadline_s=1e9,
                beginning=Beginning(durability, initial),
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
            total = 0
        if total is None:
            yield "SEQUENCE_NOT_STARTED"
        elif value == BAD:
            if start:
                total = None
            yield "INPUT_NOT_FINITE"
        else:
            total += value
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


def test_start_on_a_running_sequence_is_a_step_with_a_reset():
    rig = Rig()
    for value, start in ((1, True), (2, False), (3, True), (5, False), (2, True)):
        rig.ask(value, start=start)
    rig.settle()
    assert [outcome for _, outcome in rig.log] == [1, 3, 3, 8, 2]
    assert rig.ground.blocks == [[1, 2], [3, 5], [2]]
    assert (rig.ground.resets, rig.ground.opened) == ([3, 5], 1)


def test_start_with_another_durability_opens_another_session():
    rig = Rig()
    for durability in (Durability.NONE, Durability.NONE, Durability.SYNC):
        rig.ask(3, start=True, durability=durability)
    rig.settle()
    assert [outcome for _, outcome in rig.log] == [3, 3, 3]
    assert (rig.ground.resets, rig.ground.opened) == ([2], 2)


def test_start_with_another_initial_state_opens_another_session():
    rig = Rig()
    for initial in ("anna", "anna", "otto", "", ""):
        rig.ask(3, start=True, initial=initial)
    rig.settle()
    assert [outcome for _, outcome in rig.log] == [3] * 5
    assert (rig.ground.resets, rig.ground.opened, rig.ground.initial) == ([2, 2], 3, "")


def test_start_on_a_session_that_another_process_left_resets_it():
    rig = Rig()
    rig.ground.total, rig.ground.applied = 7, 4
    rig.ground.durability, rig.ground.initial = Durability.UNSPECIFIED, ""
    rig.ask(1)
    rig.ask(2, start=True)
    rig.settle()
    assert [outcome for _, outcome in rig.log] == [8, 2]
    assert (rig.ground.resets, rig.ground.opened) == ([6], 0)


def test_a_refused_start_ends_the_sequence_that_ran_before():
    rig = Rig()
    for value, start in ((1, True), (BAD, True), (2, False), (3, True)):
        rig.ask(value, start=start)
        rig.settle()
    assert [outcome for _, outcome in rig.log] == [1, "INPUT_NOT_FINITE", "SEQUENCE_NOT_STARTED", 3]
    assert rig.ground.opened == 2


@pytest.mark.parametrize("reason", ["SEQUENCE_REUSED", "SEQUENCE_GAP", "OUTPUT_FORGOTTEN"])
def test_start_on_a_session_that_others_step_gets_one_of_its_own(reason):
    rig = Rig()
    rig.ask(1, start=True)
    rig.settle()
    send = rig.ground._send
    rig.ground._send = lambda sequence: sequence.refused(CarouselError(reason, "another one's"))
    rig.ask(2, start=True)
    rig.ground.turn()
    rig.ground._send = send
    rig.settle()
    assert [outcome for _, outcome in rig.log] == [1, 2]
    assert (rig.ground.resets, rig.ground.opened) == ([], 2)
    rig.ground._send = lambda sequence: sequence.refused(CarouselError(reason, "another one's"))
    rig.ground.total = None
    rig.sequence.lost(LOST)
    rig.ask(3, start=True)
    rig.settle()
    assert rig.log[-1] == (2, reason)


def test_a_start_whose_session_parks_before_it_ran_still_resets():
    rig = Rig()
    rig.ask(1, start=True)
    rig.settle()
    rig.ask(2, start=True)
    rig.sequence.away()
    rig.settle()
    assert [outcome for _, outcome in rig.log] == [1, 2]
    assert rig.ground.resets == [2]
