"""Attach: handles, blocks, and how little one session's trouble means to the others."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from support.fake_engine import WIDTH
from support.wire import settled, unpack

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core import ports
from carousel_server.core.errors import CarouselError
from carousel_server.wire import turns

OPEN = pb.OpenSessionRequest(model="echo")


def rows(*shape):
    """Distinct values of shape [*shape, WIDTH]."""
    return np.arange(np.prod(shape) * WIDTH, dtype="<f4").reshape(*shape, WIDTH)


@pytest.fixture
async def stream(wire):
    """A stream with handles 1 … 3 bound."""
    talk = await wire.stubs.attach()
    for handle in (1, 2, 3):
        await talk.bind(handle, open=OPEN)
    return talk


async def test_welcome_tells_the_limits(start_wire):
    wire = await start_wire(max_handles=7, max_message_bytes=8192, server_version="1.2.3")
    talk = await wire.stubs.attach(hello=False)
    await talk.say(hello=pb.Hello())
    welcome = (await talk.hear("welcome")).welcome
    assert (welcome.max_handles, welcome.max_message_bytes) == (7, 8192)
    assert welcome.server_version == "1.2.3"


async def test_a_block_of_many_sessions_and_steps(stream):
    x = rows(3, 2)
    await stream.block([3, 1, 2], [1, 1, 1], x)
    outputs = (await stream.hear("outputs")).outputs
    assert list(outputs.handles) == [3, 1, 2]
    assert list(outputs.first_seqs) == [1, 1, 1]
    assert outputs.steps == 2
    assert outputs.outputs == x.tobytes()


async def test_blocks_carry_acks_deadlines_and_refs(wire, stream):
    await stream.block([1], [1], rows(1, 1), timeout=Duration(seconds=5))
    await stream.hear("outputs")
    await stream.block([1], [2], rows(1, 1), acks=[1])
    await stream.hear("outputs")
    first, second = (c for c in wire.engine.seen if isinstance(c, ports.StepBlock))
    assert first.deadline_s < float("inf")
    assert second.deadline_s == float("inf")
    assert (list(first.acks), list(second.acks)) == ([], [1])


async def test_one_slow_session_does_not_hold_up_another(wire, stream):
    """No head-of-line blocking: model "tokens" is stuck in an open and a step, "echo" goes on."""
    await stream.bind(4, open=pb.OpenSessionRequest(model="echo-tokens"))
    wire.tokens.hold()
    tokens = pb.Block(handles=[4], first_seqs=[1], steps=1, inputs=b"\1\0\0\0")
    await stream.say(block=tokens)
    await stream.say(bind=pb.Bind(handle=5, open=pb.OpenSessionRequest(model="echo-tokens")))
    for seq in (1, 2, 3):
        await stream.step(1, seq, rows(1))
    wire.tokens.release()
    assert (await stream.hear("outputs")).outputs.handles == [4]
    assert (await stream.hear("bound")).bound.handle == 5


async def test_replay_and_acks(wire, stream):
    x = rows(1, 3)
    await stream.block([1], [1], x)
    await stream.hear("outputs")
    await stream.say(acks=pb.Acks(handles=[1], acks=[1]))
    await stream.say(replay=pb.Replay(handle=1))
    outputs = (await stream.hear("outputs")).outputs
    assert (list(outputs.first_seqs), outputs.steps) == ([2], 2)
    assert outputs.outputs == x[:, 1:].tobytes()


async def test_unbind_leaves_the_session_and_close_does_not(wire, stream):
    assert len(wire.engine.sessions) == 3
    await stream.say(unbind=pb.Unbind(handle=1))
    unbound = (await stream.hear("unbound")).unbound
    assert unbound.handle == 1
    assert not unbound.HasField("status")
    assert len(wire.engine.sessions) == 3
    await stream.say(unbind=pb.Unbind(handle=2, close=True))
    assert not (await stream.hear("unbound")).unbound.HasField("status")
    assert len(wire.engine.sessions) == 2
    assert wire.engine.bound == ["chosen-3"]


async def test_a_handle_is_free_again_and_late_results_go_nowhere(wire, stream):
    wire.engine.hold()
    await stream.block([1], [1], rows(1, 1))
    await stream.say(unbind=pb.Unbind(handle=1))
    await stream.hear("unbound")
    await stream.say(bind=pb.Bind(handle=1, session_id="chosen-2"))
    await settled(lambda: isinstance(wire.engine.seen[-1], ports.Bind))
    wire.engine.release()
    # The step of the handle's former owner was answered by the engine, but this owner never sent it.
    assert (await stream.hear("unbound")).unbound.handle == 2
    assert (await stream.hear("bound")).bound.session.id == "chosen-2"
    await stream.step(1, 1, rows(1))


async def test_an_expired_session_takes_its_handle_only(wire, stream):
    wire.engine.expire("chosen-2")
    unbound = (await stream.hear("unbound")).unbound
    assert unbound.handle == 2
    assert unpack(unbound.status).reason == "SESSION_EXPIRED"
    x = rows(3, 1)
    await stream.block([1, 2, 3], [1, 1, 1], x, acks=[0, 0, 0])
    failure = (await stream.hear("failure")).failure
    assert (failure.handle, failure.seq) == (2, 1)
    outputs = (await stream.hear("outputs")).outputs
    assert list(outputs.handles) == [1, 3]
    assert outputs.outputs == x[[0, 2]].tobytes()


@pytest.mark.parametrize(
    ("block", "field"),
    [
        (pb.Block(), "handles"),
        (pb.Block(handles=[1, 1], first_seqs=[1, 2], steps=1), "handles"),
        (pb.Block(handles=[1, 4], first_seqs=[1, 1], steps=1), "handles"),
        (pb.Block(handles=[1], steps=1), "first_seqs"),
        (pb.Block(handles=[1], first_seqs=[0], steps=1), "first_seqs"),
        (pb.Block(handles=[1], first_seqs=[2**64 - 1], steps=1), "first_seqs"),
        (pb.Block(handles=[1], first_seqs=[1], acks=[1, 2], steps=1), "acks"),
        (pb.Block(handles=[1], first_seqs=[1], acks=[2**63], steps=1), "acks"),
        (pb.Block(handles=[1], first_seqs=[1], steps=0), "steps"),
        (pb.Block(handles=[1], first_seqs=[1], steps=2**32 - 1), "steps"),
        (pb.Block(handles=[1], first_seqs=[1], steps=1, inputs=b"\0" * 15), "inputs"),
        (pb.Block(handles=[1], first_seqs=[1], steps=1, inputs=b"\0" * 17), "inputs"),
        (pb.Block(handles=[1], first_seqs=[1], steps=1, dtype=2, inputs=b"\0" * 16), "dtype"),
        (
            pb.Block(
                handles=[1], first_seqs=[1], steps=1, inputs=b"\0" * 16,
                timeout=Duration(seconds=-1),
            ),
            "timeout",
        ),
    ],
)  # fmt: skip
async def test_bad_blocks_are_refused_and_the_stream_goes_on(wire, stream, block, field):
    await stream.bind(4, open=pb.OpenSessionRequest(model="echo-tokens"))
    await stream.say(block=block)
    handles = list(dict.fromkeys(block.handles)) or [0]
    failure = (await stream.hear("failure")).failure
    assert failure.handle == handles[0]
    assert list(failure.handles) == (handles if len(handles) > 1 else [])
    error = unpack(failure.status)
    assert error.bad_request.field_violations[0].field == field
    assert not any(isinstance(c, ports.StepBlock) for c in wire.engine.seen)
    assert len(wire.metrics.refusals) == len(handles)
    await stream.step(1, 1, rows(1))


@pytest.mark.parametrize(
    "bind",
    [
        pb.Bind(handle=0, open=OPEN),
        pb.Bind(handle=9),
        pb.Bind(handle=9, session_id="no such"),
        pb.Bind(handle=9, open=pb.OpenSessionRequest(model="echo", session_id="é")),
        pb.Bind(handle=9, open=pb.OpenSessionRequest(model="echo", durability=77)),
        pb.Bind(
            handle=9, open=pb.OpenSessionRequest(model="echo", idle_ttl=Duration(seconds=10**9))
        ),
        pb.Bind(handle=9, open=pb.OpenSessionRequest()),
    ],
)
async def test_bad_binds_are_refused_and_the_stream_goes_on(stream, bind):
    await stream.say(bind=bind)
    failure = (await stream.hear("failure")).failure
    assert failure.handle == bind.handle
    assert unpack(failure.status).reason == "FIELD_INVALID"
    await stream.step(1, 1, rows(1))


async def test_handles_are_limited(start_wire):
    wire = await start_wire(max_handles=2)
    stream = await wire.stubs.attach()
    await stream.bind(1, open=OPEN)
    await stream.bind(2, open=OPEN)
    await stream.say(bind=pb.Bind(handle=3, open=OPEN))
    failure = (await stream.hear("failure")).failure
    assert unpack(failure.status).reason == "TOO_MANY_SESSIONS"
    await stream.say(unbind=pb.Unbind(handle=1))
    await stream.hear("unbound")
    await stream.bind(3, open=OPEN)


@pytest.mark.parametrize(
    "message",
    [
        pb.AttachRequest(),
        pb.AttachRequest(bind=pb.Bind(handle=1, open=OPEN)),
    ],
)
async def test_the_first_message_is_a_hello(wire, message):
    stream = await wire.stubs.attach(hello=False)
    await stream.call.write(message)
    assert (await stream.end()).reason == "MALFORMED_MESSAGE"


@pytest.mark.parametrize("message", [pb.AttachRequest(), pb.AttachRequest(hello=pb.Hello())])
async def test_empty_events_and_second_hellos_end_the_stream(wire, stream, message):
    await stream.call.write(message)
    assert (await stream.end()).reason == "MALFORMED_MESSAGE"
    await settled(lambda: wire.engine.bound == [])
    assert len(wire.engine.sessions) == 3


async def test_torn_and_oversized_messages_end_the_stream(start_wire):
    wire = await start_wire(max_message_bytes=8192)
    for data, reason in ((b"\xff\xff", "MALFORMED_MESSAGE"), (b"\0" * 8193, "MESSAGE_TOO_LARGE")):
        call = wire.stubs.channel.stream_stream("/carousel.v1.InferenceService/Attach")()
        await call.write(data)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        trailers = dict(caught.value.trailing_metadata())
        assert reason.encode() in trailers["grpc-status-details-bin"]


@pytest.mark.parametrize("how", ["cancel", "half-close", "disconnect"])
async def test_the_end_of_a_stream_unbinds_and_leaves_no_task(wire, how):
    before = len(asyncio.all_tasks())
    stream = await wire.stubs.attach()
    await stream.bind(1, open=OPEN)
    assert wire.engine.bound == ["chosen-1"]
    assert wire.metrics.open_streams == 1
    if how == "cancel":
        stream.call.cancel()
    elif how == "half-close":
        await stream.call.done_writing()
        assert await stream.end() is None
    else:
        await wire.stubs.__aexit__()
    await settled(lambda: wire.engine.bound == [] and wire.metrics.open_streams == 0)
    assert len(wire.engine.sessions) == 1
    await settled(lambda: len(asyncio.all_tasks()) <= before)


async def test_bindings_on_their_way_are_undone_when_the_stream_ends(wire):
    stream = await wire.stubs.attach()
    await wire.stubs.open("echo", "named")
    wire.engine.hold()
    await stream.say(bind=pb.Bind(handle=1, open=OPEN))
    await stream.say(bind=pb.Bind(handle=2, session_id="named"))
    await settled(lambda: isinstance(wire.engine.seen[-1], ports.Bind))
    stream.call.cancel()
    await settled(lambda: wire.metrics.open_streams == 0)
    wire.engine.release()
    # The session that nobody learned the id of is closed; the named one lives on, unbound.
    await settled(lambda: [s.spec.session_id for s in wire.engine.sessions.values()] == ["named"])
    await settled(lambda: wire.engine.bound == [])


async def test_large_outputs_are_cut_into_messages(start_wire):
    wire = await start_wire(max_message_bytes=4096)
    stream = await wire.stubs.attach()
    await stream.bind(1, open=OPEN)
    x = rows(1, 10)
    for k in range(40):
        await stream.block([1], [1 + 10 * k], x)
        await stream.hear("outputs")
    await stream.say(replay=pb.Replay(handle=1))
    seqs = []
    while len(seqs) < 400:
        reply = await stream.hear("outputs")
        assert reply.ByteSize() <= 4096
        first = reply.outputs.first_seqs[0]
        seqs += range(first, first + reply.outputs.steps)
        assert len(reply.outputs.outputs) == reply.outputs.steps * WIDTH * 4
    assert seqs == list(range(1, 401))


async def test_every_bad_message_of_a_burst_is_answered(wire):
    """More than the outbox takes at once: the stream stops reading, and goes on when it is read."""
    stream = await wire.stubs.attach()

    async def burst():
        for handle in range(1, 3001):
            await stream.say(replay=pb.Replay(handle=handle))

    sending = asyncio.create_task(burst())
    told = [(await stream.hear("failure")).failure.handle for _ in range(3000)]
    await sending
    assert told == list(range(1, 3001))


async def test_a_refused_block_is_one_message_whatever_the_number_of_its_sessions(wire):
    stream = await wire.stubs.attach()
    for handle in (1, 2, 3):
        await stream.bind(handle, open=OPEN)
    wire.engine.refusal = CarouselError("QUEUE_FULL", "too much", retry_after_s=0.1)
    await stream.block([1, 2, 3], [1, 1, 1], np.zeros((3, 1, WIDTH), "<f4"))
    failure = (await stream.hear("failure")).failure
    assert (failure.handle, failure.seq) == (1, 1)
    assert (list(failure.handles), list(failure.seqs)) == ([1, 2, 3], [1, 1, 1])
    assert unpack(failure.status).reason == "QUEUE_FULL"
    assert wire.metrics.refusals == ["QUEUE_FULL"] * 3
    wire.engine.refusal = None
    await stream.step(1, 1, rows(1))


@pytest.mark.parametrize("reason", ["DRAINING", "QUEUE_FULL", "MODEL_UNHEALTHY"])
async def test_acks_that_an_engine_does_not_take_have_no_answer(wire, stream, reason):
    """The client would not know what to do about it, and its sessions go on."""
    wire.engine.refuse_next(ports.Ack, CarouselError(reason, "not now", retry_after_s=0.1))
    await stream.say(acks=pb.Acks(handles=[1], acks=[1]))
    await stream.step(1, 1, rows(1))
    assert wire.metrics.refusals == []


async def test_what_names_no_session_is_the_clients_mistake_also_in_a_drain(wire, stream):
    """A retryable refusal must name sessions: a client cannot tell what else to send again."""
    await wire.server.drain(5.0)
    await stream.hear("drain")
    for event in (
        {"block": pb.Block(handles=range(1, 70_000), first_seqs=[1], steps=1)},
        {"block": pb.Block(steps=1)},
        {"bind": pb.Bind(handle=0, open=OPEN)},
        {"acks": pb.Acks(handles=[1], acks=[1, 2])},
    ):
        await stream.say(**event)
        failure = (await stream.hear("failure")).failure
        assert (failure.handle, unpack(failure.status).reason) == (0, "FIELD_INVALID"), event


async def test_a_refusal_of_one_session_names_it_alone(stream):
    await stream.block([1], [5], np.zeros((1, 1, WIDTH), "<f4"))
    failure = (await stream.hear("failure")).failure
    assert (failure.handle, failure.seq) == (1, 5)
    assert not failure.handles
    assert not failure.seqs


async def test_a_client_that_lets_outputs_pile_up_loses_the_stream_but_no_session(start_wire):
    wire = await start_wire(max_message_bytes=1 << 16)
    stream = await wire.stubs.attach()
    session = await stream.bind(1, open=OPEN)
    x = rows(1, 16)
    sink = wire.engine.session(session.id).sink
    tag = wire.engine.session(session.id).tag
    pile = np.frombuffer(x.tobytes() * 200, np.uint8).reshape(1, -1)
    for _ in range(400):  # 20 MB on a limit of 1 MiB; what grpc itself buffers is little beside it
        sink.outputs(np.array([tag]), np.array([1]), 16 * 200, pile)
    error = await stream.end()
    assert error.reason == "WINDOW_EXCEEDED"
    await settled(lambda: wire.engine.bound == [])
    assert (await wire.stubs.attach()) is not None
    assert session.id in [s.spec.session_id for s in wire.engine.sessions.values()]


async def test_drain_is_told_and_accepted_steps_are_answered(wire, stream):
    wire.engine.hold()
    await stream.block([1], [1], rows(1, 1))
    await settled(lambda: isinstance(wire.engine.seen[-1], ports.StepBlock))
    await wire.server.drain(5.0)
    assert (await stream.hear("drain")).drain.grace.seconds == 5
    await stream.block([1], [2], rows(1, 1))
    failure = (await stream.hear("failure")).failure
    assert (failure.handle, failure.seq) == (1, 2)
    await stream.say(bind=pb.Bind(handle=9, open=OPEN))
    assert unpack((await stream.hear("failure")).failure.status).reason == "DRAINING"
    wire.engine.release()
    await stream.hear("outputs")
    stopping = asyncio.create_task(wire.server.stop(1.0))
    assert (await stream.end()).reason == "DRAINING"
    await stopping


@pytest.mark.parametrize("close", [False, True])
async def test_a_handle_can_be_given_back_before_its_bind_is_answered(wire, close):
    talk = await wire.stubs.attach()
    await wire.stubs.open("echo", "mine")
    wire.engine.hold()
    await talk.say(bind=pb.Bind(handle=1, session_id="mine"))
    await talk.say(unbind=pb.Unbind(handle=1, close=close))
    await talk.say(bind=pb.Bind(handle=1, session_id="mine"))  # a third message: both were read
    assert unpack((await talk.hear("failure")).failure.status).reason == "HANDLE_IN_USE"
    wire.engine.release()
    assert (await talk.hear("bound")).bound.handle == 1
    unbound = (await talk.hear("unbound")).unbound
    assert (unbound.handle, unbound.HasField("status")) == (1, False)
    await settled(lambda: len(wire.engine.sessions) == (0 if close else 1))
    assert wire.engine.bound == []


async def test_giving_back_what_cannot_be_bound_has_one_answer(wire):
    talk = await wire.stubs.attach()
    await wire.stubs.open("echo", "mine")
    wire.engine.hold()
    await talk.say(bind=pb.Bind(handle=1, session_id="mine"))
    await talk.say(unbind=pb.Unbind(handle=1, close=True))
    await talk.say(replay=pb.Replay(handle=2))  # a third message: both were read
    await talk.hear("failure")
    wire.engine.expire("mine")
    wire.engine.release()
    failure = (await talk.hear("failure")).failure
    assert (failure.handle, unpack(failure.status).reason) == (1, "SESSION_NOT_FOUND")
    await talk.bind(1, open=OPEN)  # and the handle is free: the wish to give it back is forgotten
    await talk.step(1, 1, rows(1))


async def test_a_stream_that_ends_meanwhile_closes_the_session_all_the_same(wire):
    talk = await wire.stubs.attach()
    await wire.stubs.open("echo", "mine")
    wire.engine.hold()
    await talk.say(bind=pb.Bind(handle=1, session_id="mine"))
    await talk.say(unbind=pb.Unbind(handle=1, close=True))
    await talk.call.done_writing()
    await talk.end()
    wire.engine.release()
    await settled(lambda: not wire.engine.sessions)


# -- tenants with enough steps


async def test_messages_of_a_backlogged_tenant_stay_in_the_stream(wire, stream, monkeypatch):
    monkeypatch.setattr(turns, "LONGEST_WAIT_S", 1e9)
    await stream.step(1, 1, rows(1))
    backlogged, (block,) = wire.quotas.backlogged, blocks_of(wire)
    backlogged.set("echo", frozenset({block.tenant, "other"}))
    await wire.stubs.sessions.ListSessions(pb.ListSessionsRequest())  # a link tells it before this
    for seq in (2, 3):
        await stream.block([1], [seq], rows(1, 1))
    await wire.stubs.sessions.ListSessions(pb.ListSessionsRequest())  # calls do not wait
    assert len(blocks_of(wire)) == 1
    backlogged.set("echo", frozenset({"other"}))
    for seq in (2, 3):
        outputs = (await stream.hear("outputs")).outputs
        assert list(outputs.first_seqs) == [seq]


async def test_a_message_of_a_backlogged_tenant_is_read_in_the_end(wire, stream):
    """It may be an acknowledgement, or the end of a session."""
    await stream.step(1, 1, rows(1))
    (block,) = blocks_of(wire)
    wire.quotas.backlogged.set("echo", frozenset({block.tenant}))
    for seq in (2, 3):
        await stream.step(1, seq, rows(1))
    await stream.say(unbind=pb.Unbind(handle=1, close=True))
    assert (await stream.hear("unbound")).unbound.handle == 1


def blocks_of(wire):
    """The blocks that its engine was given."""
    return [command for command in wire.engine.seen if isinstance(command, ports.StepBlock)]
