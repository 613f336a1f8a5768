"""Every reason of the error registry, provoked over a real connection.

The table is driven from the registry: a new reason without a scenario fails. Scenarios get a real server
process; those that need a broken device get the wire over a fake engine (`_faked`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from support.fake_engine import WIDTH
from support.server import BILSTM, FEATURES, GRU_BYTES, LSTM, ServerProcess
from support.triton import TritonStubs
from support.wire import Stubs, refused, unpack

from carousel_protos.errors import ERRORS, Actor
from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.wire.auth import Authenticator

TENANTS = {"first": "token-one", "second": "token-two"}
ROW = np.ones((1, FEATURES), "<f4")
MAX_MESSAGE_BYTES = 64 << 10


@pytest.fixture(scope="module")
def tight(models_dir):
    """A server with small limits and two tenants."""
    hashes = {name: hashlib.sha256(t.encode()).hexdigest() for name, t in TENANTS.items()}
    with ServerProcess(
        models_dir,
        slots=3,
        sessions_per_tenant=2,
        window_steps=8,
        max_streams=2,
        max_message_bytes=MAX_MESSAGE_BYTES,
        max_sequence_steps=64,
        tenant_infer_steps=60,
        tokens=json.dumps(hashes),
    ) as process:
        yield process


@pytest.fixture
async def talk(tight):
    """Two tenants' clients. Afterwards every session is closed."""
    async with Stubs(tight.target, "token-one") as one, Stubs(tight.target, "token-two") as two:
        yield SimpleNamespace(one=one, two=two, target=tight.target)
        for stubs in (one, two):
            page = await stubs.sessions.ListSessions(pb.ListSessionsRequest())
            for session in page.sessions:
                request = pb.CloseSessionRequest(session_id=session.id)
                await stubs.sessions.CloseSession(request)


SCENARIOS = {}


def provokes(reason):
    def register(scenario):
        SCENARIOS[reason] = scenario
        return scenario

    return register


@pytest.mark.parametrize("reason", ERRORS)
async def test_reason(reason, request, talk, start_wire):
    scenario = SCENARIOS[reason]
    faked = scenario.__name__.endswith("_faked")
    error = await scenario(await start_wire() if faked else talk)
    spec = ERRORS[reason]
    assert error.reason == reason
    assert error.code == spec.code.value
    assert error.message.endswith(spec.fix)
    assert (error.quota is not None) == (spec.code.name == "RESOURCE_EXHAUSTED")
    if spec.actor is not Actor.RETRY:
        assert error.retry is None
    elif spec.code.name in ("RESOURCE_EXHAUSTED", "UNAVAILABLE"):
        assert error.retry.retry_delay.ToNanoseconds() > 0


def step(session_id, seq, rows=ROW, **fields):
    return pb.StepRequest(session_id=session_id, first_seq=seq, inputs=rows.tobytes(), **fields)


async def failure_on(stream, handle=1):
    """The typed error of the next reply, which must be a failure."""
    failure = (await stream.hear("failure")).failure
    assert failure.handle == handle
    return unpack(failure.status)


# -- the message itself


@provokes("MALFORMED_MESSAGE")
async def malformed(talk):
    return await refused(talk.one.raw_unary("InferenceService/Step")(b"\xff\xff\xff\xff"))


@provokes("FIELD_INVALID")
async def field_invalid(talk):
    error = await refused(talk.one.inference.Step(step("not a session id!", 1)))
    assert error.bad_request.field_violations[0].field == "session_id"
    return error


@provokes("MESSAGE_TOO_LARGE")
async def too_large(talk):
    session = await talk.one.open(LSTM)
    inputs = b"\0" * (MAX_MESSAGE_BYTES + 1)
    request = pb.StepRequest(session_id=session.id, first_seq=1, inputs=inputs)
    error = await refused(talk.one.inference.Step(request))
    assert int(error.metadata["limit"]) == MAX_MESSAGE_BYTES
    return error


@provokes("TOKEN_INVALID")
async def token_invalid(talk):
    async with Stubs(talk.target, "token-three") as stranger, Stubs(talk.target) as nobody:
        await refused(nobody.models.ListModels(pb.ListModelsRequest()))
        return await refused(stranger.models.ListModels(pb.ListModelsRequest()))


async def refusal_by(wire, tokens, certificates, names):
    """A call of ListModels under other rules of who may come in."""
    wire.server.surroundings.authenticator = Authenticator(tokens, certificates)
    wire.server._interceptor._names = lambda _context: names
    call = wire.stubs.models.ListModels(
        pb.ListModelsRequest(), metadata=(("authorization", "Bearer a"),)
    )
    return await refused(call)


@provokes("CERTIFICATE_UNKNOWN")
async def certificate_unknown_faked(wire):
    return await refusal_by(wire, {}, {"one": "first"}, ["two"])


@provokes("IDENTITY_CONFLICT")
async def identity_conflict_faked(wire):
    tokens = {hashlib.sha256(b"a").digest(): "second"}
    return await refusal_by(wire, tokens, {"one": "first"}, ["one"])


# -- inputs


@provokes("INPUT_SHAPE")
async def input_shape(talk):
    session = await talk.one.open(LSTM)
    return await refused(talk.one.inference.Step(step(session.id, 1, ROW[:, :3])))


@provokes("INPUT_DTYPE")
async def input_dtype(talk):
    session = await talk.one.open(LSTM)
    request = step(session.id, 1, dtype=pb.DATA_TYPE_INT32)
    return await refused(talk.one.inference.Step(request))


@provokes("INPUT_NOT_FINITE")
async def not_finite(talk):
    session = await talk.one.open(LSTM)
    error = await refused(talk.one.inference.Step(step(session.id, 1, ROW * np.nan)))
    await talk.one.inference.Step(step(session.id, 1))  # the session is unharmed
    return error


@provokes("STEP_NOT_FINITE")
async def step_not_finite_faked(wire):
    stream = await wire.stubs.attach()
    await stream.bind(1, open=pb.OpenSessionRequest(model="echo"))
    wire.engine.step_error = CarouselError("STEP_NOT_FINITE", "step 1 does not count", seq=1)
    row = np.ones((1, WIDTH), "<f4")
    await stream.block([1], [1], row[None])
    error = await failure_on(stream)
    wire.engine.step_error = None
    assert await stream.step(1, 1, row) == row.tobytes()  # the session is unharmed
    return error


@provokes("UNKNOWN_TOKEN")
async def unknown_token(talk):
    session = await talk.one.open(GRU_BYTES)
    return await refused(talk.one.inference.Step(step(session.id, 1, np.array([[256]], "<i4"))))


@provokes("SEQUENCE_TOO_LONG")
async def too_long(talk):
    empty = await refused(talk.one.inference.Infer(pb.InferRequest(model=BILSTM, inputs=b"")))
    assert empty.reason == "SEQUENCE_TOO_LONG"
    inputs = np.zeros((65, FEATURES), "<f4").tobytes()
    return await refused(talk.one.inference.Infer(pb.InferRequest(model=BILSTM, inputs=inputs)))


# -- models


@provokes("MODEL_NOT_FOUND")
async def model_not_found(talk):
    error = await refused(talk.one.models.GetModel(pb.GetModelRequest(name="lstn")))
    assert (error.resource.resource_type, error.resource.resource_name) == ("model", "lstn")
    return error


@provokes("MODEL_NOT_CAUSAL")
async def not_causal(talk):
    request = pb.OpenSessionRequest(model=BILSTM)
    return await refused(talk.one.sessions.OpenSession(request))


@provokes("INITIAL_UNKNOWN")
async def initial_unknown(talk):
    request = pb.OpenSessionRequest(model=LSTM, initial="eve")
    return await refused(talk.one.sessions.OpenSession(request))


@provokes("STATE_INVALID")
async def state_invalid(talk):
    request = pb.OpenSessionRequest(model=LSTM, state=[pb.StateTensor()])
    return await refused(talk.one.sessions.OpenSession(request))


async def generate(stubs, **fields):
    async for _ in stubs.inference.Generate(pb.GenerateRequest(max_tokens=1, **fields)):
        pass


@provokes("MODEL_NOT_GENERATIVE")
async def not_generative(talk):
    return await refused(generate(talk.one, model=LSTM))


@provokes("TEXT_UNAVAILABLE")
async def text_unavailable(talk):
    return await refused(talk.one.inference.Infer(pb.InferRequest(model=LSTM, text="hello")))


@provokes("MODEL_UNHEALTHY")
async def unhealthy_faked(wire):
    wire.engine.refusal = CarouselError("MODEL_UNHEALTHY", "the device has failed")
    return await refused(wire.stubs.open("echo"))


# -- sessions


@provokes("SESSION_NOT_FOUND")
async def session_not_found(talk):
    session = await talk.one.open(LSTM)
    foreign = pb.GetSessionRequest(session_id=session.id)
    error = await refused(talk.two.sessions.GetSession(foreign))
    assert error.resource.resource_name == session.id
    return error


@provokes("SESSION_EXPIRED")
async def session_expired(talk):
    stream = await talk.one.attach()
    ttl = Duration(nanos=1_000_000)
    session = await stream.bind(1, open=pb.OpenSessionRequest(model=LSTM, idle_ttl=ttl))
    unbound = (await stream.hear("unbound")).unbound
    assert unpack(unbound.status).reason == "SESSION_EXPIRED"
    return await refused(talk.one.inference.Step(step(session.id, 1)))


@provokes("SESSION_CLOSED")
async def session_closed(talk):
    session = await talk.one.open(LSTM)
    request = pb.CloseSessionRequest(session_id=session.id)
    await talk.one.sessions.CloseSession(request)
    return await refused(talk.one.sessions.CloseSession(request))


@provokes("SESSION_EXISTS")
async def session_exists(talk):
    await talk.one.open(LSTM, "mine", seed=1)
    await talk.one.open(LSTM, "mine", seed=1)  # safe to repeat
    return await refused(talk.one.open(LSTM, "mine", seed=2))


@provokes("SESSION_BUSY")
async def session_busy(talk):
    session = await talk.one.open(GRU_BYTES)
    request = pb.GenerateRequest(session_id=session.id, text="a", max_tokens=65_536)
    call = talk.one.inference.Generate(request)
    await call.read()
    error = await refused(talk.one.inference.Step(step(session.id, 2, np.array([[1]], "<i4"))))
    call.cancel()
    return error


@provokes("SUPERSEDED")
async def superseded(talk):
    older, newer = await talk.one.attach(), await talk.one.attach()
    session = await older.bind(1, open=pb.OpenSessionRequest(model=LSTM))
    await newer.bind(9, session_id=session.id)
    unbound = (await older.hear("unbound")).unbound
    assert unbound.handle == 1
    return unpack(unbound.status)


@provokes("HANDLE_NOT_BOUND")
async def handle_not_bound(talk):
    stream = await talk.one.attach()
    await stream.block([1], [1], ROW[None])
    return await failure_on(stream)


@provokes("HANDLE_IN_USE")
async def handle_in_use(talk):
    stream = await talk.one.attach()
    session = await stream.bind(1, open=pb.OpenSessionRequest(model=LSTM))
    await stream.say(bind=pb.Bind(handle=1, session_id=session.id))
    return await failure_on(stream)


@provokes("DURABILITY_UNAVAILABLE")
async def durability_unavailable(talk):
    return await refused(talk.one.open(LSTM, durability=pb.DURABILITY_SYNC))


# -- Triton's protocol


@provokes("SEQUENCE_NOT_STARTED")
async def sequence_not_started(talk):
    async with TritonStubs(talk.target, "token-one") as stubs:
        return await refused(stubs.infer(LSTM, ROW[0], 7))


@provokes("METHOD_NOT_OFFERED")
async def method_not_offered(talk):
    async with TritonStubs(talk.target, "token-one") as stubs:
        return await refused(stubs.raw("LogSettings")(b""))


# -- the store: what it does to sessions is tested in tests/unit/engine/test_durability.py and
# tests/chaos; here only that its errors reach a client as documented


def passed_on(reason, retry_after_s):
    @provokes(reason)
    async def passed_on_faked(wire):
        said = "as the engine says"
        wire.engine.refusal = CarouselError(reason, said, retry_after_s=retry_after_s)
        return await refused(wire.stubs.open("echo"))


for reason in ("STORE_UNAVAILABLE", "SESSION_HELD", "LEASE_LOST", "SESSION_PARKED"):
    passed_on(reason, 0.1)
for reason in ("DATA_LOSS", "SNAPSHOT_DAMAGED"):
    passed_on(reason, None)


# -- cursors


@provokes("SEQUENCE_GAP")
async def sequence_gap(talk):
    session = await talk.one.open(LSTM)
    error = await refused(talk.one.inference.Step(step(session.id, 3)))
    assert error.metadata["expected"] == "1"
    return error


@provokes("SEQUENCE_REUSED")
async def sequence_reused(talk):
    session = await talk.one.open(LSTM)
    first = await talk.one.inference.Step(step(session.id, 1))
    assert await talk.one.inference.Step(step(session.id, 1)) == first  # safe to repeat
    return await refused(talk.one.inference.Step(step(session.id, 1, 2 * ROW)))


@provokes("OUTPUT_FORGOTTEN")
async def output_forgotten(talk):
    session = await talk.one.open(LSTM)
    await talk.one.inference.Step(step(session.id, 1))
    await talk.one.inference.Step(step(session.id, 2, ack=1))
    return await refused(talk.one.inference.Step(step(session.id, 1)))


# -- snapshots


@provokes("SNAPSHOT_INVALID")
async def snapshot_invalid(talk):
    request = pb.ImportSessionRequest(snapshot=b"no snapshot", model=LSTM)
    return await refused(talk.one.sessions.ImportSession(request))


@provokes("FINGERPRINT_MISMATCH")
async def fingerprint_mismatch(talk):
    session = await talk.one.open(LSTM)
    export = pb.ExportSessionRequest(session_id=session.id)
    snapshot = (await talk.one.sessions.ExportSession(export)).snapshot
    request = pb.ImportSessionRequest(snapshot=snapshot, model=GRU_BYTES)
    return await refused(talk.one.sessions.ImportSession(request))


# -- limits


@provokes("SLAB_FULL")
async def slab_full(talk):
    await asyncio.gather(*(talk.one.open(LSTM) for _ in range(2)), talk.two.open(LSTM))
    return await refused(talk.two.open(LSTM))


@provokes("TOO_MANY_SESSIONS")
async def too_many_sessions(talk):
    await asyncio.gather(*(talk.one.open(LSTM) for _ in range(2)))
    return await refused(talk.one.open(LSTM))


@provokes("TOO_MANY_STREAMS")
async def too_many_streams(talk):
    await talk.one.attach()
    await talk.two.attach()
    third = await talk.one.attach(hello=False)
    return await third.end()


@provokes("TOO_MANY_CALLS")
async def too_many_calls_faked(wire):
    wire.server._limits._calls._limit = 0
    return await refused(wire.stubs.models.ListModels(pb.ListModelsRequest()))


@provokes("QUOTA_EXCEEDED")
async def quota_exceeded(talk):
    request = pb.InferRequest(model=LSTM, inputs=np.repeat(ROW, 61, axis=0).tobytes())
    error = await refused(talk.one.inference.Infer(request))
    violation = error.quota.violations[0]
    assert violation.subject == "first"
    assert "60 steps of whole sequences (tenant_infer_steps)" in violation.description
    return error


@provokes("WINDOW_EXCEEDED")
async def window_exceeded(talk):
    stream = await talk.one.attach()
    await stream.bind(1, open=pb.OpenSessionRequest(model=LSTM))
    await stream.block([1], [1], np.repeat(ROW[None], 8, axis=1))
    await stream.block([1], [9], ROW[None])
    while (reply := await stream.hear()).HasField("outputs"):
        pass
    return unpack(reply.failure.status)


@provokes("QUEUE_FULL")
async def queue_full_faked(wire):
    wire.engine.refusal = CarouselError("QUEUE_FULL", "the queue is full", retry_after_s=0.5)
    inputs = np.ones((1, WIDTH), "<f4").tobytes()
    error = await refused(wire.stubs.inference.Infer(pb.InferRequest(model="echo", inputs=inputs)))
    assert error.retry.retry_delay.ToNanoseconds() == 500_000_000
    return error


# -- time


@provokes("DEADLINE_EXCEEDED")
async def deadline_exceeded(talk):
    stream = await talk.one.attach()
    await stream.bind(1, open=pb.OpenSessionRequest(model=LSTM))
    await stream.block([1], [1], ROW[None], timeout=Duration(nanos=1))
    error = await failure_on(stream)
    await stream.step(1, 1, ROW)  # it was not applied
    return error


@provokes("MESSAGE_TIMEOUT")
async def message_timeout_faked(wire):
    wire.server._limits._calls._message_timeout_s = 0.01
    return await refused(wire.stubs.channel.stream_unary("/carousel.v1.ModelService/ListModels")())


@provokes("DRAINING")
async def draining_faked(wire):
    await wire.server.drain(1.0)
    await refused(wire.stubs.inference.Step(step("any", 1)))
    return await (await wire.stubs.attach(hello=False)).end()


# -- ours


@provokes("STEP_FAILED")
async def step_failed_faked(wire):
    stream = await wire.stubs.attach()
    await stream.bind(1, open=pb.OpenSessionRequest(model="echo"))
    wire.engine.step_error = CarouselError("STEP_FAILED", "the device refused the step", seq=1)
    row = np.ones((1, WIDTH), "<f4")
    await stream.block([1], [1], row[None])
    error = await failure_on(stream)
    wire.engine.step_error = None
    assert await stream.step(1, 1, row) == row.tobytes()
    return error


@provokes("INTERNAL")
async def internal_faked(wire):
    wire.engine.refusal = ZeroDivisionError("a secret of the server")  # type: ignore[assignment]
    error = await refused(wire.stubs.open("echo"))
    assert "secret" not in error.message
    assert "ZeroDivision" not in error.message
    assert error.request.request_id in error.message
    return error
