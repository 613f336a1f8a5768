"""What surrounds every call: tenants, request ids, metrics, logs, health, sessions and models."""

from __future__ import annotations

import asyncio
import hashlib
import logging

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from support.wire import Stubs, refused, settled, unpack

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.wire import ListenError, transport

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


# -- request id, metrics, access log


async def test_a_request_id_is_given_back_or_made(wire):
    call = wire.stubs.models.ListModels(pb.ListModelsRequest())
    assert len(dict(await call.trailing_metadata())["x-request-id"]) == 32
    for given, kept in (("mine-7", True), ("x" * 129, False)):
        stub = wire.stubs.channel.unary_unary("/carousel.v1.ModelService/ListModels")
        call = stub(b"", metadata=(("x-request-id", given),))
        assert (dict(await call.trailing_metadata())["x-request-id"] == given) is kept


async def test_errors_carry_the_request_id(wire):
    call = wire.stubs.models.GetModel(pb.GetModelRequest(name="nope"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert "x-request-id" in dict(caught.value.trailing_metadata())


async def test_every_call_is_counted_once(wire):
    await wire.stubs.models.ListModels(pb.ListModelsRequest())
    await refused(wire.stubs.models.GetModel(pb.GetModelRequest(name="nope")))
    stream = await wire.stubs.attach()
    await stream.call.done_writing()
    await stream.end()
    assert wire.metrics.begun == [
        ("carousel.v1.ModelService", "ListModels", "unary"),
        ("carousel.v1.ModelService", "GetModel", "unary"),
        ("carousel.v1.InferenceService", "Attach", "bidi_stream"),
    ]
    await settled(lambda: len(wire.metrics.ended) == 3)
    assert set(wire.metrics.ended) == {
        ("ListModels", "unary", "OK"),
        ("GetModel", "unary", "NOT_FOUND"),
        ("Attach", "bidi_stream", "OK"),
    }


async def test_the_access_log_has_one_line_a_call_and_no_inputs(wire, caplog):
    caplog.set_level(logging.INFO, "carousel.access")
    await wire.stubs.open("echo", "a-session")
    await refused(
        wire.stubs.inference.Step(
            pb.StepRequest(session_id="a-session", first_seq=1, inputs=b"precious")
        )
    )
    await settled(lambda: len(wire.metrics.ended) == 2)
    lines = [r for r in caplog.records if r.name == "carousel.access"]
    assert [(r.method, r.code, r.reason) for r in lines] == [
        ("OpenSession", "OK", ""),
        ("Step", "INVALID_ARGUMENT", "INPUT_SHAPE"),
    ]
    assert wire.metrics.refusals == ["INPUT_SHAPE"]
    assert "precious" not in caplog.text


async def test_a_defect_is_logged_with_its_request_id(wire, caplog):
    wire.engine.refusal = KeyError("internals")  # type: ignore[assignment]
    error = await refused(wire.stubs.open("echo"))
    assert error.reason == "INTERNAL"
    assert error.request.request_id in caplog.text
    assert "internals" in caplog.text


async def test_unknown_methods_are_unimplemented(wire):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await wire.stubs.raw_unary("ModelService/Nothing")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_loop_is_watched(wire):
    async with asyncio.timeout(10):
        while not wire.metrics.lags:  # noqa: ASYNC110 - the sampler has no event
            await asyncio.sleep(0.01)
    assert min(wire.metrics.lags) >= 0


# -- tenants


@pytest.fixture
async def guarded(start_wire):
    tokens = {hashlib.sha256(t.encode()).digest(): f"tenant-{t}" for t in ("one", "two")}
    return await start_wire(tokens=tokens)


async def test_tenants_do_not_see_each_other(guarded):
    async with Stubs(guarded.target, "one") as one, Stubs(guarded.target, "two") as two:
        mine = await one.open("echo", "shared-name")
        get = pb.GetSessionRequest(session_id=mine.id)
        assert (await refused(two.sessions.GetSession(get))).reason == "SESSION_NOT_FOUND"
        assert not (await two.sessions.ListSessions(pb.ListSessionsRequest())).sessions
        assert len((await one.sessions.ListSessions(pb.ListSessionsRequest())).sessions) == 1
        stream = await two.attach()
        await stream.say(bind=pb.Bind(handle=1, session_id=mine.id))
        await stream.hear("failure")


@pytest.mark.parametrize("header", [None, "", "one", "Basic one", "Bearer", "Bearer three"])
async def test_strangers_are_turned_away(guarded, header):
    stub = guarded.stubs.channel.unary_unary("/carousel.v1.ModelService/ListModels")
    metadata = () if header is None else (("authorization", header),)
    assert (await refused(stub(b"", metadata=metadata))).reason == "TOKEN_INVALID"
    stream = await guarded.stubs.attach(hello=False)
    assert (await stream.end()).reason == "TOKEN_INVALID"


async def test_probes_need_no_token(guarded):
    health = health_pb2_grpc.HealthStub(guarded.stubs.channel)
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING


# -- health and reflection


@pytest.mark.unlinked
async def test_health_says_what_the_engines_say(wire):
    health = health_pb2_grpc.HealthStub(wire.stubs.channel)

    async def status(service):
        return (await health.Check(health_pb2.HealthCheckRequest(service=service))).status

    names = ("", "carousel.v1.InferenceService", "model/echo", "model/echo-tokens")
    assert [await status(name) for name in names] == [SERVING] * 4
    wire.engine.healthy = False
    assert [await status(name) for name in names] == [
        NOT_SERVING, NOT_SERVING, NOT_SERVING, SERVING
    ]  # fmt: skip
    wire.engine.healthy = True
    assert await status("") == SERVING
    await wire.server.drain(1.0)
    assert [await status(name) for name in names] == [NOT_SERVING] * 4
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await status("model/none")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_watchers_hear_of_changes(wire):
    health = health_pb2_grpc.HealthStub(wire.stubs.channel)
    call = health.Watch(health_pb2.HealthCheckRequest(service="model/echo"))
    assert (await call.read()).status == SERVING
    wire.engine.healthy = False
    assert (await call.read()).status == NOT_SERVING
    wire.engine.healthy = True
    assert (await call.read()).status == SERVING
    call.cancel()
    unknown = health.Watch(health_pb2.HealthCheckRequest(service="model/none"))
    assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    unknown.cancel()


async def test_health_lists_every_service(wire):
    health = health_pb2_grpc.HealthStub(wire.stubs.channel)
    statuses = (await health.List(health_pb2.HealthListRequest())).statuses
    assert set(statuses) == {
        "", "carousel.v1.InferenceService", "model/echo", "model/echo-tokens"
    }  # fmt: skip


@pytest.mark.parametrize("enabled", [True, False])
async def test_reflection_names_the_services(start_wire, enabled):
    wire = await start_wire(reflection=enabled)
    stub = reflection_pb2_grpc.ServerReflectionStub(wire.stubs.channel)
    call = stub.ServerReflectionInfo()
    if not enabled:  # nothing is said: a write that meets the refusal would become INTERNAL
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
        return
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    reply = await call.read()
    names = {service.name for service in reply.list_services_response.service}
    assert {f"carousel.v1.{n}Service" for n in ("Inference", "Session", "Model")} <= names


# -- sessions and models


async def test_pages_of_sessions_and_models(wire):
    names = [f"s{n}" for n in range(5)]
    for name in reversed(names):
        await wire.stubs.open("echo", name)
    await wire.stubs.open("echo-tokens", "s9")
    found, token = [], ""
    while True:
        request = pb.ListSessionsRequest(page_size=2, page_token=token)
        page = await wire.stubs.sessions.ListSessions(request)
        assert len(page.sessions) <= 2
        found += [session.id for session in page.sessions]
        token = page.next_page_token
        if not token:
            break
    assert found == [*names, "s9"]
    request = pb.ListSessionsRequest(model="echo-tokens")
    page = await wire.stubs.sessions.ListSessions(request)
    assert [session.id for session in page.sessions] == ["s9"]
    first = await wire.stubs.models.ListModels(pb.ListModelsRequest(page_size=1))
    second = await wire.stubs.models.ListModels(
        pb.ListModelsRequest(page_size=1, page_token=first.next_page_token)
    )
    assert [m.name for p in (first, second) for m in p.models] == ["echo", "echo-tokens"]
    assert not second.next_page_token


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"page_size": 1001}, "page_size"),
        ({"page_token": "?"}, "page_token"),
        ({"page_token": "é"}, "page_token"),
        ({"page_token": "/////w=="}, "page_token"),
        ({"page_token": "A" * 1025}, "page_token"),
    ],
)
async def test_bad_pages_are_named(wire, fields, field):
    error = await refused(wire.stubs.sessions.ListSessions(pb.ListSessionsRequest(**fields)))
    assert error.bad_request.field_violations[0].field == field
    error = await refused(wire.stubs.models.ListModels(pb.ListModelsRequest(**fields)))
    assert error.bad_request.field_violations[0].field == field


async def test_a_session_from_open_to_close(wire):
    ttl = Duration(seconds=12, nanos=500_000_000)
    opened = await wire.stubs.open("echo", "mine", idle_ttl=ttl, seed=2**64 - 1)
    assert opened.idle_ttl == ttl
    assert (opened.seed, opened.window_steps, opened.epoch) == (2**64 - 1, 16, 1)
    assert opened.created_at.seconds == 1_700_000_000
    sessions = wire.stubs.sessions
    assert (await sessions.GetSession(pb.GetSessionRequest(session_id="mine"))).session == opened
    export = await sessions.ExportSession(pb.ExportSessionRequest(session_id="mine"))
    fork = await sessions.ForkSession(
        pb.ForkSessionRequest(session_id="mine", new_session_id="fork")
    )
    assert fork.session.id == "fork"
    imported = await sessions.ImportSession(
        pb.ImportSessionRequest(snapshot=export.snapshot, session_id="again")
    )
    assert (imported.session.id, imported.session.model) == ("again", "echo")
    await sessions.CloseSession(pb.CloseSessionRequest(session_id="mine"))
    assert sorted(s.spec.session_id for s in wire.engine.sessions.values()) == ["again", "fork"]


async def test_an_abandoned_open_without_a_name_is_closed_and_one_with_a_name_is_kept(wire):
    wire.engine.hold()
    calls = [
        wire.stubs.sessions.OpenSession(pb.OpenSessionRequest(model="echo", session_id=name))
        for name in ("", "named")
    ]
    async with asyncio.timeout(10):
        while len(wire.engine.seen) < 2:  # noqa: ASYNC110 - arrival has no event
            await asyncio.sleep(0.001)
        for call in calls:
            call.cancel()
        while len(wire.metrics.ended) < 2:  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.001)
    wire.engine.release()
    await settled(lambda: [s.spec.session_id for s in wire.engine.sessions.values()] == ["named"])


async def test_a_second_server_on_the_port_is_refused(wire, start_wire):
    with pytest.raises(ListenError, match="cannot listen"):
        await start_wire(port=wire.server.port)


async def test_calls_that_come_while_a_server_stops_are_refused_by_name(start_wire, monkeypatch):
    """gRPC would answer CANCELLED without a reason. Each caller leaves after its refusal, as a proxy does."""
    monkeypatch.setattr(transport, "_QUIET_S", 2.0)
    wire = await start_wire(transport="python")
    begun, reasons = asyncio.Event(), []

    async def call_until_refused():
        async with Stubs(wire.target) as stubs:
            while True:
                try:
                    await stubs.inference.Infer(pb.InferRequest(model="echo", inputs=bytes(16)))
                except grpc.aio.AioRpcError as error:
                    status = rpc_status.from_call(error)
                    reasons.append(error.code().name if status is None else unpack(status).reason)
                    return
                begun.set()

    callers = [asyncio.create_task(call_until_refused()) for _ in range(20)]
    await begun.wait()
    await wire.server.drain(0)
    await wire.server.stop(60)
    await asyncio.gather(*callers)
    assert reasons == ["DRAINING"] * 20


async def test_a_server_without_calls_stops_at_once(start_wire, monkeypatch):
    monkeypatch.setattr(transport, "_QUIET_S", 3600)
    wire = await start_wire(transport="python")
    await wire.server.stop(3600)
