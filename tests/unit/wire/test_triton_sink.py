"""Between sequences and engine: each step goes once, and a refusal meets the steps that it means."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.futures import done
from carousel_server.core.ports import NO_DEADLINE
from carousel_server.core.store import SessionKey
from carousel_server.core.types import Durability, SessionRef
from carousel_server.wire.seat import Claim
from carousel_server.wire.triton.parameters import Beginning
from carousel_server.wire.triton.sequence import Request, Sequence
from carousel_server.wire.triton.sessions import SequenceSessions
from carousel_server.wire.triton.tally import Tallies


class Answer:
    def __init__(self, log, number):
        self.log, self.number = log, number

    def done(self, row):
        self.log.append((self.number, float(np.frombuffer(row, "<f4")[0])))

    def failed(self, error, step):
        self.log.append((self.number, error.reason))


class Rig:
    """One sequence, its sink, and an engine that only takes note: the test answers in its place."""

    window_steps = 64

    def __init__(self):
        self.blocks, self.log, self.closed = [], [], 0
        engine = SimpleNamespace(
            model=SimpleNamespace(output_row_bytes=4, window_steps=64),
            submit_steps=self.blocks.extend,
        )
        self.engine = engine
        sessions = SequenceSessions(None, engine, Tallies(), self.leave)
        self.seats, self.send = sessions.seats, sessions.send
        self.sequence = Sequence(self, "t", "m", 7, "triton:m:7")

    def open(self, sequence, spec):
        place = (self.engine, SessionRef(0, 1))
        claim = Claim(SessionKey("t", "triton:m:7"), lambda: done(place), place=place)
        sequence.seat = self.seats.take(sequence, claim)
        claim.tag = 1 << 32 | sequence.seat
        self.seats._sit(sequence.seat, claim)
        sequence.opened(SimpleNamespace(applied=0, whole=True))

    def close(self, sequence):
        self.closed += 1
        sequence.ended()

    def leave(self, sequence):
        pass

    def ask(self, *numbers, start=False):
        for number in numbers:
            self.sequence.take(
                Request(
                    np.float32(number).tobytes(), Answer(self.log, number), start=start, end=False,
                    deadline_s=NO_DEADLINE, beginning=Beginning(Durability.SYNC),
                )
            )  # fmt: skip

    @property
    def tag(self):
        return self.seats.tag[self.sequence.seat]

    async def output(self, first, *values):
        rows = np.array([values], "<f4").view(np.uint8)
        self.seats.outputs(np.array([self.tag]), np.array([first]), len(values), rows)
        await turn()

    async def fail(self, seq):
        error = CarouselError("STEP_FAILED", "that one", seq=seq)
        self.seats.failures([self.tag], [seq], error)
        await turn()

    def sent(self):
        """What the engine got since the last look: first seqs and steps of each block."""
        found = [(list(block.first_seqs), block.steps) for block in self.blocks]
        self.blocks.clear()
        return found


async def turn():
    """Two turns of the loop: what comes from a thread, then what goes to the engine."""
    for _ in range(2):
        await asyncio.sleep(0)


@pytest.fixture
async def rig():
    """The first step has run, and steps 2 to 9 are at the engine as one block."""
    rig = Rig()
    rig.ask(1, start=True)
    await turn()
    rig.ask(*range(2, 10))
    await rig.output(1, 1.0)
    assert rig.sent() == [([1], 1), ([2], 8)]
    return rig


async def test_a_block_refused_before_its_first_steps_are_told_sends_none_twice(rig):
    """The engine has run 2 to 5, which wait for the store; 6 is refused meanwhile."""
    await rig.fail(6)
    assert rig.sent() == [([2], 1)]
    await rig.output(2, 2.0, 3.0, 4.0, 5.0)
    assert rig.sent() == [([6], 1)], "one block, which holds the session once"
    assert rig.log == [(n, float(n)) for n in range(1, 6)]
    await rig.output(2, 2.0)  # the answer to the second asking
    await rig.fail(6)
    assert rig.sent() == [([6], 1)]
    for n in range(6, 9):
        await rig.output(n, float(n + 1))
    assert rig.log[5:] == [(6, "STEP_FAILED"), (7, 7.0), (8, 8.0), (9, 9.0)]
    assert [block for block in rig.sent() if len(block[0]) > 1] == []


@pytest.mark.parametrize("seq", [1, 2, 5, 7, 99])
async def test_an_old_refusal_fails_nobody_else(rig, seq):
    await rig.output(2, 2.0, 3.0, 4.0, 5.0)
    await rig.output(6, 6.0, 7.0, 8.0, 9.0)
    rig.ask(10)
    await turn()
    rig.sent()
    await rig.fail(seq)
    assert rig.sent() == []
    await rig.output(10, 10.0)
    assert rig.log == [(n, float(n)) for n in range(1, 11)]


@pytest.mark.parametrize("seq", [0, 2, 9])
async def test_a_refusal_of_what_runs_is_heard(rig, seq):
    await rig.fail(seq)
    assert rig.sent() == [([2], 1)]
    await rig.fail(2 if seq else 0)
    assert rig.log[1:] == [(2, "STEP_FAILED")]
    assert rig.sent() == [([2], 1)]


async def test_a_refusal_behind_the_start_does_not_fail_the_start():
    rig = Rig()
    rig.ask(1, start=True)
    await turn()
    await rig.fail(2)
    await rig.output(1, 1.0)
    assert rig.log == [(1, 1.0)]
    assert not rig.closed
