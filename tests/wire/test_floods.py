"""Floods of calls that are never meant: headers without messages, resets, slow messages, silent streams."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from contextlib import suppress

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc
from support.http2 import HEADERS, LIST_MODELS, RST_STREAM, Http2
from support.wire import error_of, refused, settled

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.wire.lanes import PROBE_PATIENCE_S

MANY = 17_408
ATTACH = "/carousel.v1.InferenceService/Attach"
ABANDONED = (
    LIST_MODELS,
    ATTACH,
    "/inference.GRPCInferenceService/ModelStreamInfer",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
SERVING = health_pb2.HealthCheckResponse.SERVING
TOKENS = {hashlib.sha256(b"good").digest(): "one"}


def notices(caplog, kind):
    return [r for r in caplog.records if r.name == "carousel.wire" and r.kind == kind]


async def healthy(wire):
    stub = health_pb2_grpc.HealthStub(wire.stubs.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest())).status == SERVING


def silent(wire, path=LIST_MODELS):
    """A call whose message is never sent."""
    return wire.stubs.channel.stream_unary(path)()


async def outcome(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_of(caught.value)


@pytest.mark.parametrize("tokens", [{}, TOKENS], ids=["open", "with tokens"])
async def test_headers_without_messages_shut_the_door_to_nobody(start_wire, tokens):
    wire = await start_wire(tokens=tokens, max_streams=64, max_calls_per_connection=64)
    metadata = (("authorization", "Bearer good"),)
    async with Http2(wire.server.port) as hostile:
        await hostile.headers(MANY)
        await hostile.until(RST_STREAM, MANY // 2)
        answer = await wire.stubs.models.GetModel(
            pb.GetModelRequest(name="echo"), metadata=metadata
        )
        assert answer.model.name == "echo"
        assert await healthy(wire)


async def test_a_stranger_is_refused_before_the_message(start_wire, caplog):
    wire = await start_wire(tokens=TOKENS)
    assert (await outcome(silent(wire))).reason == "TOKEN_INVALID"
    assert (await outcome(silent(wire))).reason == "TOKEN_INVALID"
    [line] = notices(caplog, "TOKEN_INVALID")  # the second is counted for a later line
    assert line.peer.startswith("ipv4:127.0.0.1:")


# -- the limit of calls


@pytest.fixture
async def full(start_wire):
    """A wire that runs as many calls as it may: two, whose engine does not answer."""
    wire = await start_wire(max_calls=2)
    wire.engine.hold()
    request = pb.OpenSessionRequest(model="echo")
    calls = [wire.stubs.sessions.OpenSession(request) for _ in range(2)]
    await settled(lambda: len(wire.engine.seen) == 2)
    yield wire
    wire.engine.release()
    await asyncio.gather(*calls)
    await wire.stubs.open("echo")  # and there is room again


async def test_calls_beyond_the_limit_are_refused_by_name(full, caplog):
    error = await refused(full.stubs.models.ListModels(pb.ListModelsRequest()))
    assert (error.reason, error.metadata["limit"]) == ("TOO_MANY_CALLS", "2")
    assert full.metrics.refusals == ["TOO_MANY_CALLS"]
    assert len(notices(caplog, "TOO_MANY_CALLS")) == 1


async def test_health_answers_at_the_limit_within_one_of_its_own(full, monkeypatch):
    assert await healthy(full)


async def test_the_limit_of_health_is_its_own(start_wire, monkeypatch):
    monkeypatch.setattr("carousel_server.wire.call_limits.MOST_PROBES", 1)
    wire = await start_wire()
    watching = health_pb2_grpc.HealthStub(wire.stubs.channel).Watch(health_pb2.HealthCheckRequest())
    await watching.read()
    check = health_pb2_grpc.HealthStub(wire.stubs.channel).Check(health_pb2.HealthCheckRequest())
    assert (await refused(check)).reason == "TOO_MANY_CALLS"
    await wire.stubs.models.ListModels(pb.ListModelsRequest())
    watching.cancel()


async def test_a_call_that_sends_nothing_makes_room(start_wire, monkeypatch):
    monkeypatch.setattr("carousel_server.wire.call_limits.PATIENCE_S", 0.0)
    wire = await start_wire(max_calls=1)
    waiting = silent(wire)
    await settled(lambda: len(wire.metrics.begun) == 1)
    await wire.stubs.models.ListModels(pb.ListModelsRequest())
    assert (await outcome(waiting)).reason == "TOO_MANY_CALLS"


async def test_probes_that_send_nothing_keep_no_other_out(start_wire, monkeypatch):
    """Anybody may start probes, without a token: the limit's worth of them on a connection, ever anew."""
    monkeypatch.setattr("carousel_server.wire.call_limits.MOST_PROBES", 4)
    monkeypatch.setattr("carousel_server.wire.call_limits.PATIENCE_S", 3600.0)
    wire = await start_wire(tokens=TOKENS)
    async with Http2(wire.server.port) as hostile:
        await hostile.headers(4, path="/grpc.health.v1.Health/Check")
        await settled(lambda: len(wire.metrics.begun) == 4)
        await asyncio.sleep(PROBE_PATIENCE_S)
        assert await healthy(wire)
        await hostile.until(HEADERS)  # the oldest was refused


async def test_but_not_at_once(start_wire):
    wire = await start_wire(max_calls=1)
    waiting = silent(wire)
    await settled(lambda: len(wire.metrics.begun) == 1)
    error = await refused(wire.stubs.models.ListModels(pb.ListModelsRequest()))
    assert error.reason == "TOO_MANY_CALLS"
    waiting.cancel()


# -- the time of a message


@pytest.mark.parametrize("path", [LIST_MODELS, "/inference.GRPCInferenceService/ModelInfer"])
async def test_a_message_that_does_not_come_is_refused(start_wire, path):
    wire = await start_wire(message_timeout_s=0.05)
    error = await outcome(silent(wire, path))
    assert (error.reason, error.metadata["limit"]) == ("MESSAGE_TIMEOUT", "0.05")


async def test_nor_one_that_comes_in_part(start_wire):
    wire = await start_wire(message_timeout_s=0.05)
    async with Http2(wire.server.port) as slow:
        await slow.data(await slow.headers(), b"\0\0\0\0\x0a" + b"half")
        await settled(lambda: wire.metrics.refusals == ["MESSAGE_TIMEOUT"])


async def test_a_call_that_ends_without_its_message(wire, caplog):
    caplog.set_level(logging.INFO)
    call = wire.stubs.channel.stream_unary(LIST_MODELS)()
    await call.done_writing()
    assert (await outcome(call)).reason == "MALFORMED_MESSAGE"
    assert wire.metrics.refusals == ["MALFORMED_MESSAGE"]
    await settled(lambda: len(wire.metrics.ended) == 1)
    assert not [r for r in caplog.records if r.name == "carousel.access"]  # there can be thousands


async def test_an_attach_stream_that_does_not_say_hello_ends(start_wire):
    wire = await start_wire(message_timeout_s=0.05)
    stream = await wire.stubs.attach(hello=False)
    assert (await stream.end()).reason == "MESSAGE_TIMEOUT"
    assert wire.metrics.open_streams == 0


async def test_reflection_that_asks_nothing_ends(start_wire):
    wire = await start_wire(message_timeout_s=0.05)
    call = reflection_pb2_grpc.ServerReflectionStub(wire.stubs.channel).ServerReflectionInfo()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert error_of(caught.value).reason == "MESSAGE_TIMEOUT"


async def test_headers_beyond_measure_are_refused(wire):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await wire.stubs.models.ListModels(
            pb.ListModelsRequest(), metadata=(("x-large", "a" * 40_000),)
        )
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await wire.stubs.models.ListModels(pb.ListModelsRequest())).models


# -- calls that are abandoned


@pytest.mark.parametrize("path", ABANDONED)
async def test_a_client_that_abandons_calls_over_and_over_is_cut_off(start_wire, caplog, path):
    caplog.set_level(logging.INFO)
    wire = await start_wire(max_streams=2, max_calls_per_connection=2, abandoned_calls_per_s=0.001)
    stream = await wire.stubs.attach()
    async with Http2(wire.server.port) as hostile:
        with suppress(ConnectionError):
            while not hostile.ended.is_set():
                await hostile.headers(2, path=path, reset=True)
                await asyncio.sleep(0)
    await settled(lambda: wire.metrics.closed == 1)
    assert not [r for r in caplog.records if r.name == "carousel.access" and r.code == "CANCELLED"]
    assert len(notices(caplog, "ABANDONED_CALLS")) == 1
    await stream.bind(1, open=pb.OpenSessionRequest(model="echo"))  # another connection goes on


async def test_who_cancels_calls_that_run_is_not(start_wire):
    wire = await start_wire(max_streams=2, max_calls_per_connection=2, abandoned_calls_per_s=0.001)
    stream = await wire.stubs.attach()
    wire.engine.hold()
    for count in range(1, 21):
        call = wire.stubs.sessions.OpenSession(pb.OpenSessionRequest(model="echo"))
        await settled(lambda: len(wire.engine.seen) == count)  # noqa: B023
        call.cancel()
    await settled(lambda: wire.metrics.ended.count(("OpenSession", "unary", "CANCELLED")) == 20)
    wire.engine.release()
    await stream.bind(1, open=pb.OpenSessionRequest(model="echo"))
    assert wire.metrics.closed == 0


# -- malformed messages to stock services


@pytest.mark.parametrize("path", ["Check", "Watch", "List"])
async def test_health_refuses_what_is_no_request(wire, caplog, path):
    call = wire.stubs.channel.unary_unary(f"/grpc.health.v1.Health/{path}")(b"\xff\xff\xff")
    error = await refused(call)
    assert (error.reason, wire.metrics.refusals) == ("MALFORMED_MESSAGE", ["MALFORMED_MESSAGE"])
    assert "Traceback" not in caplog.text
    # The client may have its answer before the server has counted the call.
    await settled(lambda: {code for _, _, code in wire.metrics.ended} == {"INVALID_ARGUMENT"})


@pytest.mark.parametrize("version", ["v1alpha"])
async def test_so_does_reflection(wire, caplog, version):
    path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    call = wire.stubs.channel.stream_stream(path)()
    await call.write(b"\xff\xff\xff")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert error_of(caught.value).reason == "MALFORMED_MESSAGE"
    assert "Traceback" not in caplog.text
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
