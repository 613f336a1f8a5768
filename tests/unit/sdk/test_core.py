"""The sans-IO core against a server of a few lines that cuts, delays and refuses as Hypothesis says."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import carousel
from carousel._core.addresses import Addresses
from carousel._core.attach import AttachCore
from carousel._core.effects import Effects
from carousel._core.lane import Lane
from carousel._core.retry import RetryPolicy
from carousel._core.tickets import StepTicket
from carousel.testing.refusals import Refusal
from carousel_protos.v1 import carousel_pb2 as pb

ROW_BYTES = 4
HOST = "host:1"
POLICY = RetryPolicy()


class World:
    """A core, and a server whose answers come when the test says so.

    Step k of a session answers with its input and k, so that a lost, repeated or misplaced output
    shows.
    """

    def __init__(self, sessions: int, window: int, policy: RetryPolicy = POLICY) -> None:
        self.window = window
        self.core = AttachCore(Addresses((HOST,)), policy)
        self.applied = [0] * sessions
        self.acked = [0] * sessions
        self.outbox: list[deque[pb.AttachResponse]] = [deque() for _ in range(sessions)]
        self.refuse_at: dict[int, int] = {}
        self.bound: set[int] = set()
        self.closed: set[int] = set()
        self.ended: list[object] = []
        self.lanes: list[Lane] = []
        self.do(self.core.connected(HOST))
        for number in range(sessions):
            ticket, effects = self.core.bind(f"s{number}")
            self.lanes.append(ticket.lane)
            self.do(effects)

    def do(self, effects: Effects) -> None:
        self.ended.extend(effects.ended)
        for message in effects.send.get(HOST, ()):
            event = message.WhichOneof("event")
            if event in ("bind", "unbind", "block", "acks"):
                getattr(self, f"on_{event}")(getattr(message, event))

    def on_bind(self, bind: pb.Bind) -> None:
        number = int(bind.session_id[1:])
        assert bind.handle not in self.bound
        self.bound.add(bind.handle)
        session = pb.Session(
            id=bind.session_id,
            applied=self.applied[number],
            ack=self.acked[number],
            window_steps=self.window,
            durability=pb.DURABILITY_NONE,
        )
        bound = pb.Bound(handle=bind.handle, session=session)
        self.outbox[number].append(pb.AttachResponse(bound=bound))

    def on_unbind(self, unbind: pb.Unbind) -> None:
        assert unbind.handle in self.bound, "a real server would refuse it"
        self.bound.remove(unbind.handle)
        if unbind.close:
            self.closed.add(unbind.handle)
        unbound = pb.Unbound(handle=unbind.handle)
        self.outbox[unbind.handle - 1].append(pb.AttachResponse(unbound=unbound))

    def on_acks(self, acks: pb.Acks) -> None:
        for handle, ack in zip(acks.handles, acks.acks, strict=True):
            assert handle in self.bound, "a real server would refuse it"
            self.ack(handle - 1, ack)

    def ack(self, number: int, ack: int) -> None:
        assert self.acked[number] <= ack <= self.applied[number]
        self.acked[number] = ack

    def on_block(self, block: pb.Block) -> None:
        rows = np.frombuffer(block.inputs, "<i4").reshape(len(block.handles), block.steps)
        for i, (handle, first) in enumerate(zip(block.handles, block.first_seqs, strict=True)):
            number = handle - 1
            assert handle in self.bound, "a real server would refuse it"
            if block.acks:
                self.ack(number, block.acks[i])
            last = first + block.steps - 1
            assert last <= self.acked[number] + self.window, "beyond the window"
            bad = self.refuse_at.get(number, 0)
            if first != self.applied[number] + 1:
                self.fail(handle, first, "SEQUENCE_GAP")
            elif bad and first <= bad <= last:
                del self.refuse_at[number]
                self.fail(handle, first, "INPUT_NOT_FINITE")
            else:
                self.applied[number] = last
                for seq, row in enumerate(rows[i], first):
                    self.outbox[number].append(self.output(handle, seq, int(row)))

    def fail(self, handle: int, seq: int, reason: str) -> None:
        failure = pb.Failure(handle=handle, seq=seq, status=Refusal(reason).status())
        self.outbox[handle - 1].append(pb.AttachResponse(failure=failure))

    @staticmethod
    def output(handle: int, seq: int, row: int) -> pb.AttachResponse:
        data = np.array([row, seq], "<i4").tobytes()
        result = pb.BlockResult(handles=[handle], first_seqs=[seq], steps=1, outputs=data)
        return pb.AttachResponse(outputs=result)

    def deliver(self, number: int, count: int) -> None:
        for _ in range(min(count, len(self.outbox[number]))):
            self.do(self.core.receive(HOST, self.outbox[number].popleft(), 0.0))
            self.check()

    def drain(self) -> None:
        while any(self.outbox):
            for number in range(len(self.outbox)):
                self.deliver(number, 1_000_000)

    def check(self) -> None:
        for lane in self.lanes:
            assert (
                lane.cursors.acked
                <= lane.cursors.received
                <= lane.cursors.sent
                < lane.cursors.next_seq
                or lane.error
            )
            assert lane.cursors.sent - lane.cursors.received <= self.window
            # Whole blocks are kept, and a block is at most half a window.
            kept_steps = sum(kept.last - kept.first + 1 for kept in lane.log.inputs)
            assert kept_steps < self.window + max(self.window // 2, 1)

    def submit(self, numbers: list[int], values: np.ndarray) -> StepTicket:
        inputs = np.ascontiguousarray(values, "<i4").view(np.uint8)
        inputs = inputs.reshape(*values.shape, ROW_BYTES)
        lanes = [self.lanes[number] for number in numbers]
        ticket, effects = self.core.submit(lanes, inputs, 2 * ROW_BYTES)
        self.do(effects)
        self.check()
        return ticket


def outputs_of(ticket: StepTicket) -> np.ndarray:
    return ticket.outputs.view("<i4").reshape(*ticket.outputs.shape[:2], 2)


MOVES = st.one_of(
    st.tuples(st.just("submit"), st.sets(st.integers(0, 2), min_size=1), st.integers(1, 20)),
    st.tuples(st.just("deliver"), st.integers(0, 2), st.integers(1, 6)),
)


@settings(max_examples=60, deadline=None)
@given(window=st.integers(1, 12), moves=st.lists(MOVES, max_size=25))
def test_every_output_comes_once_and_in_order(window: int, moves: list[tuple]) -> None:
    world = World(3, window)
    tickets: list[tuple[StepTicket, list[int], np.ndarray, list[int]]] = []
    next_seq = [1, 1, 1]
    world.drain()
    for verb, who, count in moves:
        if verb == "deliver":
            world.deliver(who, count)
            continue
        numbers = sorted(who)
        values = np.arange(len(numbers) * count).reshape(len(numbers), count) + 1000 * len(tickets)
        tickets.append(
            (world.submit(numbers, values), numbers, values, [next_seq[n] for n in numbers])
        )
        for number in numbers:
            next_seq[number] += count
    world.drain()
    for ticket, numbers, values, firsts in tickets:
        assert world.ended.count(ticket) == 1
        outputs = outputs_of(ticket)
        np.testing.assert_array_equal(outputs[..., 0], values)
        for i in range(len(numbers)):
            expected = np.arange(firsts[i], firsts[i] + values.shape[1])
            np.testing.assert_array_equal(outputs[i, :, 1], expected)
    assert world.applied == [seq - 1 for seq in next_seq]
    assert all(lane.cursors.received - lane.cursors.acked <= window for lane in world.lanes)


@settings(max_examples=60, deadline=None)
@given(
    window=st.integers(2, 12),
    bad=st.integers(1, 40),
    lengths=st.lists(st.integers(1, 15), min_size=1, max_size=5),
    pauses=st.lists(st.integers(0, 5), min_size=5, max_size=5),
)
def test_after_a_refusal_the_session_goes_on_where_it_stands(
    window: int, bad: int, lengths: list[int], pauses: list[int]
) -> None:
    world = World(1, window)
    world.drain()
    world.refuse_at[0] = bad
    tickets = []
    for length, pause in zip(lengths, pauses, strict=False):
        tickets.append(world.submit([0], np.arange(length)[None]))
        world.deliver(0, pause)
    world.drain()
    assert all(world.ended.count(ticket) == 1 for ticket in tickets)
    answered = sum(t.steps if t.error is None else max(t.answered_steps, 0) for t in tickets)
    assert answered == world.applied[0] == world.lanes[0].cursors.received
    world.refuse_at.clear()
    again = world.submit([0], np.array([[7, 8]]))
    world.drain()
    assert again.error is None
    seqs = outputs_of(again)[0, :, 1].tolist()
    assert seqs == [answered + 1, answered + 2]


@settings(max_examples=60, deadline=None)
@given(
    window=st.integers(2, 12),
    bad=st.integers(1, 40),
    steps=st.integers(1, 40),
    delivered=st.integers(0, 60),
    close=st.booleans(),
)
def test_a_session_is_let_go_in_the_midst_of_anything(
    window: int, bad: int, steps: int, delivered: int, close: bool
) -> None:
    world = World(1, window)
    world.drain()
    world.refuse_at[0] = bad
    ticket = world.submit([0], np.arange(steps)[None])
    world.deliver(0, delivered)
    done, effects = world.core.unbind(world.lanes[0], close=close)
    world.do(effects)
    world.drain()
    assert world.ended.count(ticket) == 1
    assert world.ended.count(done) == 1
    assert world.bound == set()
    assert world.closed == ({1} if close else set())
    assert world.lanes[0].phase.name == "GONE"


@settings(deadline=None)
@given(durables=st.lists(st.integers(0, 10), max_size=6))
def test_inputs_are_kept_until_they_are_durable(durables: list[int]) -> None:
    world = World(1, 16)
    world.drain()
    lane = world.lanes[0]
    lane.cursors.tracks_durable = True
    for value in range(10):
        world.submit([0], np.array([[value]]))
    world.drain()
    assert [kept.last for kept in lane.log.inputs] == list(range(1, 11))
    for seq in durables:
        told = pb.Durable(handles=[lane.handle], durables=[seq])
        world.do(world.core.receive(HOST, pb.AttachResponse(durable=told), 0.0))
    reached = max(durables, default=0)
    assert [kept.first for kept in lane.log.inputs] == list(range(reached + 1, 11))
    kept_rows = [
        int(np.frombuffer(kept.block.inputs, "<i4")[kept.place]) for kept in lane.log.inputs
    ]
    assert kept_rows == list(range(reached, 10))


def test_without_retries_a_lost_stream_fails_what_waits_and_its_sessions() -> None:
    world = World(2, 4, RetryPolicy(attempts=1))
    world.deliver(0, 1)
    waiting = world.submit([0], np.zeros((1, 9), int))
    effects = world.core.broken(HOST, carousel.ConnectionLostError("broken"), 0.0)
    world.do(effects)
    assert not effects.connect
    assert waiting in world.ended
    assert isinstance(waiting.error, carousel.ConnectionLostError)
    assert world.lanes[1].phase.name == "GONE"
    with pytest.raises(carousel.ConnectionLostError):
        world.submit([0], np.zeros((1, 1), int))
    _, effects = world.core.bind("s0")
    assert (effects.send, effects.connect) == ({}, {HOST: 0.0})


def test_a_closed_core_takes_nothing() -> None:
    world = World(1, 4)
    world.drain()
    waiting = world.submit([0], np.zeros((1, 1), int))
    world.do(world.core.close(carousel.ClientClosedError("closed")))
    assert isinstance(waiting.error, carousel.ClientClosedError)
    for call in (lambda: world.core.bind("s0"), lambda: world.submit([0], np.zeros((1, 1), int))):
        with pytest.raises(carousel.ClientClosedError):
            call()


def test_an_output_out_of_turn_is_a_violation() -> None:
    world = World(1, 4)
    world.drain()
    world.submit([0], np.zeros((1, 3), int))
    with pytest.raises(carousel.ProtocolViolationError, match="next"):
        world.core.receive(HOST, world.output(1, 3, 0), 0.0)


def test_repeated_and_stray_outputs_are_dropped() -> None:
    world = World(1, 4)
    world.drain()
    ticket = world.submit([0], np.array([[5, 6]]))
    first = world.outbox[0][0]
    world.do(world.core.receive(HOST, first, 0.0))
    world.do(world.core.receive(HOST, first, 0.0))
    world.do(world.core.receive(HOST, world.output(99, 1, 0), 0.0))
    world.do(world.core.receive(HOST, pb.AttachResponse(), 0.0))
    world.drain()
    assert outputs_of(ticket)[0].tolist() == [[5, 1], [6, 2]]


def test_outputs_of_an_earlier_stream_are_taken_over() -> None:
    world = World(1, 4)
    world.drain()
    world.do(world.core.receive(HOST, world.output(1, 1, 0), 0.0))
    assert world.lanes[0].cursors.unread == 1
    assert world.lanes[0].cursors.next_seq == 2


def test_a_message_that_no_server_takes_is_refused_here() -> None:
    world = World(2, 4)
    world.do(
        world.core.receive(HOST, pb.AttachResponse(welcome=pb.Welcome(max_message_bytes=300)), 0.0)
    )
    world.drain()
    with pytest.raises(carousel.MessageTooLargeError):
        world.submit([0, 1], np.zeros((2, 1), int))
    # Nothing of it is left in the way of what fits.
    assert not any(lane.tickets or lane.unsent for lane in world.lanes)
    assert world.submit([0], np.zeros((1, 1), int)).sent_steps == 1


@pytest.mark.parametrize(
    "broken",
    [
        {"outputs": pb.BlockResult()},
        {"outputs": pb.BlockResult(handles=[1], first_seqs=[1], steps=2, outputs=b"odd")},
        {"outputs": pb.BlockResult(handles=[1, 2], first_seqs=[1], steps=1, outputs=bytes(16))},
        {"durable": pb.Durable(handles=[1])},
    ],
)
def test_a_message_that_makes_no_sense_is_a_violation(broken: dict[str, object]) -> None:
    world = World(2, 4)
    world.drain()
    world.submit([0], np.zeros((1, 2), int))
    with pytest.raises(carousel.ProtocolViolationError):
        world.core.receive(HOST, pb.AttachResponse(**broken), 0.0)


@pytest.mark.parametrize("applied", [None, 40])
@pytest.mark.parametrize("steps", [1, 3, 9])
def test_steps_sent_while_a_generation_runs_end_too(applied: int | None, steps: int) -> None:
    world = World(1, 4)
    world.drain()
    lane = world.lanes[0]
    ticket = world.submit([0], np.zeros((1, steps), int))
    world.applied[0] = world.acked[0] = 40
    world.outbox[0].clear()  # the server refuses them all, in its own time
    world.fail(lane.handle, 1, "SESSION_BUSY")
    world.core.generation_begins(lane)
    world.do(world.core.generated(lane, applied))
    world.drain()
    assert world.ended.count(ticket) == 1
    assert isinstance(ticket.error, carousel.SessionBusyError)
    again = world.submit([0], np.array([[7]]))
    world.drain()
    assert outputs_of(again)[0].tolist() == [[7, 41]]


def test_a_refusal_of_several_sessions_fails_the_steps_of_each() -> None:
    world = World(3, 4)
    world.drain()
    tickets = [world.submit([number], np.zeros((1, 1), int)) for number in range(3)]
    for number in (0, 2):
        world.outbox[number].clear()
    status = Refusal("DEADLINE_EXCEEDED").status()
    failure = pb.Failure(handle=1, seq=1, status=status, handles=[1, 3], seqs=[1, 1])
    world.do(world.core.receive(HOST, pb.AttachResponse(failure=failure), 0.0))
    world.drain()
    for ticket, failed in zip(tickets, (True, False, True), strict=True):
        assert ticket in world.ended
        assert isinstance(ticket.error, carousel.CarouselError if failed else type(None))
    assert tickets[2].error is not None
    assert tickets[2].error.reason == "DEADLINE_EXCEEDED"


def test_a_drain_is_remembered() -> None:
    world = World(1, 4)
    world.do(world.core.receive(HOST, pb.AttachResponse(drain=pb.Drain()), 0.0))
    assert world.core._links.of(HOST).draining
