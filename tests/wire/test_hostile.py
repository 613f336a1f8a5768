"""Callers who mean harm, or seem to: what they send is refused cheaply and leaves nothing behind."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import replace

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc
from support.fake_engine import WIDTH
from support.wire import Stubs, refused, settled, unpack

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core import ports
from carousel_server.core.errors import CarouselError
from carousel_server.wire import health as health_module

ROW = np.zeros(WIDTH, "<f4").tobytes()


# -- messages that hold many small things


@pytest.mark.parametrize(
    "event",
    [
        {"block": pb.Block(handles=range(1, 300_000), steps=1)},
        {"acks": pb.Acks(handles=range(1, 300_000), acks=[0] * 299_999)},
        {"acks": pb.Acks(handles=[1] * 300_000, acks=[0] * 300_000)},
    ],
    ids=["block", "acks", "one handle"],
)
async def test_a_message_with_more_handles_than_a_stream_has_gets_one_answer(wire, event):
    stream = await wire.stubs.attach()
    await stream.say(**event)
    failure = (await stream.hear("failure")).failure
    error = unpack(failure.status)
    assert (failure.handle, error.reason) == (0, "FIELD_INVALID")
    assert error.bad_request.field_violations[0].field == "handles"
    assert wire.metrics.refusals == ["FIELD_INVALID"]
    await stream.bind(1, open=pb.OpenSessionRequest(model="echo"))  # and the stream goes on


async def test_while_draining_too(wire):
    """Handle 0 is the client's mistake then too: to refuse in passing without a name is to say nothing."""
    stream = await wire.stubs.attach()
    await wire.server.drain(1.0)
    await stream.hear("drain")
    await stream.say(block=pb.Block(handles=range(1, 300_000), steps=1))
    failure = (await stream.hear("failure")).failure
    assert (failure.handle, unpack(failure.status).reason) == (0, "FIELD_INVALID")


async def test_each_handle_that_is_not_bound_is_named_with_its_step(wire):
    stream = await wire.stubs.attach()
    await stream.bind(2, open=pb.OpenSessionRequest(model="echo"))
    await stream.block([1, 2, 3], [7, 1, 9], np.zeros((3, 1, WIDTH), "<f4"))
    told = [(await stream.hear("failure")).failure for _ in range(2)]
    assert {(f.handle, f.seq) for f in told} == {(1, 7), (3, 9)}
    assert {unpack(f.status).reason for f in told} == {"HANDLE_NOT_BOUND"}
    assert list((await stream.hear("outputs")).outputs.handles) == [2]


async def test_a_snapshot_that_no_client_could_receive_is_not_sent(start_wire):
    wire = await start_wire(max_message_bytes=4096)
    session = await wire.stubs.open("echo")
    view = wire.engine._get(ports.Get(next(iter(wire.engine.sessions))))
    wire.engine._export = lambda _: (b"\0" * 5000, view)
    request = pb.ExportSessionRequest(session_id=session.id)
    error = await refused(wire.stubs.sessions.ExportSession(request))
    assert (error.reason, error.metadata["bytes"]) == ("MESSAGE_TOO_LARGE", "5000")


async def test_a_text_that_cannot_fit_is_not_encoded(wire):
    def encode_text(_):
        raise AssertionError("was encoded")

    wire.tokens.encode_text = wire.tokens.encode_prompt = encode_text
    text = "a" * (wire.tokens.model.max_sequence_steps + 1)
    error = await refused(
        wire.stubs.inference.Infer(pb.InferRequest(model="echo-tokens", text=text))
    )
    assert error.reason == "SEQUENCE_TOO_LONG"
    call = wire.stubs.inference.Generate(
        pb.GenerateRequest(model="echo-tokens", text=text, max_tokens=1)
    )
    assert (await refused(call.read())).reason == "SEQUENCE_TOO_LONG"


@pytest.mark.parametrize("stop_tokens", [[256], [2**31 - 1], [0] * 257])
async def test_stop_tokens_are_tokens_of_the_model(wire, stop_tokens):
    request = pb.GenerateRequest(
        model="echo-tokens", text="x", max_tokens=1, stop_tokens=stop_tokens
    )
    error = await refused(wire.stubs.inference.Generate(request).read())
    assert error.bad_request.field_violations[0].field == "stop_tokens"


# -- sessions that come and go


@pytest.mark.unlinked
async def test_unary_steps_leave_nothing_when_their_sessions_have_gone(wire):
    for _ in range(20):
        session = await wire.stubs.open("echo")
        await wire.stubs.inference.Step(
            pb.StepRequest(session_id=session.id, first_seq=1, inputs=ROW)
        )
        await wire.stubs.sessions.CloseSession(pb.CloseSessionRequest(session_id=session.id))
    sink = next(c.sink for c in wire.engine.seen if isinstance(c, ports.StepBlock))
    await settled(lambda: not any(sink.claim))
    assert not any(sink.engine)


@pytest.mark.unlinked
async def test_a_step_given_up_while_it_binds_leaves_no_seat_of_its_own(wire):
    session = await wire.stubs.open("echo")
    wire.engine.hold()
    request = pb.StepRequest(session_id=session.id, first_seq=1, inputs=ROW)
    call = wire.stubs.inference.Step(request)
    await settled(lambda: isinstance(wire.engine.seen[-1], ports.Bind))
    sink = wire.engine.seen[-1].sink
    call.cancel()
    await settled(lambda: ("Step", "unary", "CANCELLED") in wire.metrics.ended)
    wire.engine.release()
    assert (await wire.stubs.inference.Step(request)).outputs == ROW
    assert sum(claim is not None for claim in sink.claim) == 1, (
        "both calls share the session's seat"
    )
    await wire.stubs.sessions.CloseSession(pb.CloseSessionRequest(session_id=session.id))
    await settled(lambda: not any(sink.claim))
    assert not any(sink.engine)


# -- whose is it?


@pytest.fixture
async def tenants(start_wire):
    """Stubs of the owner of session "mine" on each engine, and of a stranger; and the wire."""
    tokens = {hashlib.sha256(t.encode()).digest(): t for t in ("owner", "stranger")}
    wire = await start_wire(tokens=tokens)
    async with Stubs(wire.target, "owner") as owner, Stubs(wire.target, "stranger") as stranger:
        await owner.open("echo-tokens", "mine")
        yield wire, owner, stranger


CALLS = {
    "Step": lambda s: s.inference.Step(
        pb.StepRequest(session_id="mine", first_seq=1, inputs=b"\0\0\0\0")
    ),
    "Generate": lambda s: s.inference.Generate(
        pb.GenerateRequest(session_id="mine", text="a", max_tokens=1)
    ).read(),
    "GetSession": lambda s: s.sessions.GetSession(pb.GetSessionRequest(session_id="mine")),
    "CloseSession": lambda s: s.sessions.CloseSession(pb.CloseSessionRequest(session_id="mine")),
    "ExportSession": lambda s: s.sessions.ExportSession(pb.ExportSessionRequest(session_id="mine")),
    "GetState": lambda s: s.sessions.GetState(pb.GetStateRequest(session_id="mine")),
    "ForkSession": lambda s: s.sessions.ForkSession(pb.ForkSessionRequest(session_id="mine")),
}


@pytest.mark.parametrize("method", CALLS)
async def test_another_tenants_session_does_not_exist(tenants, method):
    wire, _, stranger = tenants
    before = list(wire.tokens.seen)
    assert (await refused(CALLS[method](stranger))).reason == "SESSION_NOT_FOUND"
    assert wire.tokens.seen == before  # the engine has not even heard of it


async def test_nor_on_a_stream(tenants):
    wire, owner, stranger = tenants
    owned = await owner.attach()
    await owned.bind(1, session_id="mine")
    stream = await stranger.attach()
    await stream.say(bind=pb.Bind(handle=1, session_id="mine"))
    assert unpack((await stream.hear("failure")).failure.status).reason == "SESSION_NOT_FOUND"
    for event in (
        {"replay": pb.Replay(handle=1)},
        {"unbind": pb.Unbind(handle=1, close=True)},
        {"acks": pb.Acks(handles=[1], acks=[1])},
    ):
        await stream.say(**event)
        assert unpack((await stream.hear("failure")).failure.status).reason == "HANDLE_NOT_BOUND"
    assert wire.tokens.bound == ["mine"]


async def test_reflection_is_not_for_strangers(tenants):
    wire, _, _ = tenants
    stub = reflection_pb2_grpc.ServerReflectionStub(wire.stubs.channel)
    assert await stub.ServerReflectionInfo().code() is grpc.StatusCode.UNAUTHENTICATED


# -- health, logs, metrics


async def test_watchers_are_bounded_and_let_go_when_they_leave(wire, monkeypatch):
    monkeypatch.setattr(health_module, "_MOST_WATCHERS", 2)
    stub = health_pb2_grpc.HealthStub(wire.stubs.channel)
    watching = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
    for call in watching:
        await call.read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Watch(health_pb2.HealthCheckRequest()).read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    watching[0].cancel()
    await settled(lambda: ("Watch", "server_stream", "CANCELLED") in wire.metrics.ended)
    again = stub.Watch(health_pb2.HealthCheckRequest())
    assert (await again.read()).status == health_pb2.HealthCheckResponse.SERVING


async def test_a_stop_does_not_wait_for_watchers(wire):
    stub = health_pb2_grpc.HealthStub(wire.stubs.channel)
    call = stub.Watch(health_pb2.HealthCheckRequest())
    await call.read()
    async with asyncio.timeout(10):
        await wire.server.stop(60.0)
    assert await call.read() is grpc.aio.EOF


async def test_calls_that_a_stock_servicer_ends_are_counted_by_their_code(wire):
    stub = health_pb2_grpc.HealthStub(wire.stubs.channel)
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Check(health_pb2.HealthCheckRequest(service="none"))
    # A call is counted when its handler has ended, which may be after the answer has come.
    await settled(lambda: bool(wire.metrics.ended))
    assert wire.metrics.ended == [("Check", "unary", "NOT_FOUND")]


@pytest.mark.parametrize("given", ["a b", "id reason=OK", 'a"b'])
async def test_a_request_id_cannot_forge_a_log_line(wire, given):
    stub = wire.stubs.channel.unary_unary("/carousel.v1.ModelService/ListModels")
    call = stub(b"", metadata=(("x-request-id", given),))
    assert dict(await call.trailing_metadata())["x-request-id"] != given


async def test_probes_and_steps_that_go_well_are_logged_at_debug_only(wire, caplog):
    caplog.set_level(logging.DEBUG, "carousel.access")
    session = await wire.stubs.open("echo")
    step = pb.StepRequest(session_id=session.id, first_seq=1, inputs=ROW)
    await wire.stubs.inference.Step(step)
    await health_pb2_grpc.HealthStub(wire.stubs.channel).Check(health_pb2.HealthCheckRequest())
    wire.engine.step_error = CarouselError("STEP_FAILED", "no", seq=2)
    await refused(wire.stubs.inference.Step(replaced(step, first_seq=2)))
    await settled(lambda: len(wire.metrics.ended) == 4)
    lines = [(r.method, r.levelname) for r in caplog.records if r.name == "carousel.access"]
    assert lines == [
        ("OpenSession", "INFO"), ("Step", "DEBUG"), ("Check", "DEBUG"), ("Step", "INFO")
    ]  # fmt: skip


def replaced(message, **fields):
    copy = type(message)()
    copy.CopyFrom(message)
    for name, value in fields.items():
        setattr(copy, name, value)
    return copy


async def test_a_model_that_turns_unhealthy_is_told_to_watchers_of_the_whole(wire):
    stub = health_pb2_grpc.HealthStub(wire.stubs.channel)
    call = stub.Watch(health_pb2.HealthCheckRequest(service=""))
    await call.read()
    wire.engine.healthy = False
    assert (await call.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_vocabulary_smaller_than_the_alternatives_asked_for_is_the_engines_to_cut(wire):
    wire.tokens.model = replace(wire.tokens.model, vocabulary=4)
    request = pb.GenerateRequest(
        model="echo-tokens", tokens=pb.Tokens(ids=[3]), max_tokens=1, logprobs=32
    )
    await wire.stubs.inference.Generate(request).read()
    assert next(c for c in wire.tokens.seen if isinstance(c, ports.Generate)).spec.logprobs == 32


@pytest.mark.parametrize("method", ["grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch"])
async def test_garbage_for_a_stock_service_leaks_nothing(wire, method, caplog):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await wire.stubs.channel.unary_unary(f"/{method}")(b"\xff\xff")
    assert "Traceback" not in (caught.value.details() or "")
    assert ".py" not in (caught.value.details() or "")
