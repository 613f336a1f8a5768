"""What one door refuses, the others refuse with the same reason. One table over gRPC, HTTP and WebSocket."""

from __future__ import annotations

import asyncio
import hashlib
import json
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from support.fake_engine import WIDTH
from support.server import BILSTM, FEATURES, GRU_BYTES, LSTM, ServerProcess
from support.sockets import SocketCall
from support.wire import StreamTalk, Stubs, refused, unpack

from carousel_protos.errors import ERRORS
from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.http.problems import STATUS
from carousel_server.http.streams import ATTACH

ROW = np.ones((1, FEATURES), "<f4")
TOKENS = {"first": "token-one", "second": "token-two"}


@pytest.fixture(scope="module")
def tight(models_dir):
    hashes = {name: hashlib.sha256(t.encode()).hexdigest() for name, t in TOKENS.items()}
    with ServerProcess(
        models_dir,
        http_port=0,
        slots=3,
        sessions_per_tenant=2,
        window_steps=8,
        max_message_bytes=64 << 10,
        max_sequence_steps=64,
        max_generate_tokens=32,
        tenant_infer_steps=60,
        tokens=json.dumps(hashes),
    ) as process:
        yield process


@pytest.fixture
async def talk(tight):
    """Clients of one tenant, one by each door. Afterwards every session is closed."""
    headers = {"authorization": "Bearer token-one"}
    sockets_url = f"ws{tight.http_url.removeprefix('http')}{ATTACH}"
    async with (
        Stubs(tight.target, "token-one") as stubs,
        Stubs(tight.target, "token-one", sockets_url) as sockets,
        httpx.AsyncClient(base_url=tight.http_url, headers=headers, timeout=60) as http,
    ):
        yield SimpleNamespace(
            stubs=stubs, sockets=sockets, http=http, target=tight.target, sockets_url=sockets_url
        )
        for session in (await http.get("/api/sessions")).json()["sessions"]:
            await http.delete(f"/api/sessions/{session['id']}")


def step(session, seq, rows=ROW, **fields):
    return pb.StepRequest(session_id=session, first_seq=seq, inputs=rows.tobytes(), **fields)


def post(talk, path, **body):
    """A call with JSON, in which a NaN is written as Python does."""
    headers = {"content-type": "application/json"}
    return talk.http.post(path, content=json.dumps(body), headers=headers)


async def told(stream):
    """What the next failure of a stream says."""
    return unpack((await stream.hear("failure")).failure.status)


def by_steps(seq, rows=ROW, **fields):
    """The same step by all doors, on a session that has run one."""

    async def grpc(talk, session):
        return await refused(talk.stubs.inference.Step(step(session, seq, rows, **fields)))

    def http(talk, session):
        path = f"/api/sessions/{session}/steps"
        return post(talk, path, first_seq=seq, inputs=rows.tolist(), **fields)

    async def socket(talk, session):
        stream = await talk.sockets.attach()
        await stream.bind(1, session_id=session)
        await stream.block([1], [seq], rows[None])
        return await told(stream)

    return grpc, http, socket


def by_sequences(model, rows, **fields):
    async def grpc(talk, _session):
        request = pb.InferRequest(model=model, inputs=rows.tobytes(), **fields)
        return await refused(talk.stubs.inference.Infer(request))

    def http(talk, _session):
        return post(talk, f"/api/models/{model}/infer", inputs=rows.tolist(), **fields)

    return grpc, http


def by_opening(model, **fields):
    async def grpc(talk, _session):
        request = pb.OpenSessionRequest(model=model, **fields)
        return await refused(talk.stubs.sessions.OpenSession(request))

    def http(talk, _session):
        return post(talk, f"/api/models/{model}/sessions", **fields)

    async def socket(talk, _session):
        stream = await talk.sockets.attach()
        await stream.say(bind=pb.Bind(handle=1, open=pb.OpenSessionRequest(model=model, **fields)))
        return await told(stream)

    return grpc, http, socket


def by_generating(model, **fields):
    async def grpc(talk, _session):
        request = pb.GenerateRequest(model=model, **fields)
        return await refused(talk.stubs.inference.Generate(request).read())

    def http(talk, _session):
        body = {"prompt" if key == "text" else key: value for key, value in fields.items()}
        return post(talk, f"/api/models/{model}/generate", **body)

    return grpc, http


def strangers():
    async def grpc(talk, _session):
        async with Stubs(talk.target, "wrong") as stubs:
            return await refused(stubs.models.ListModels(pb.ListModelsRequest()))

    def http(talk, _session):
        return talk.http.get("/api/models", headers={"authorization": "Bearer wrong"})

    async def socket(talk, _session):
        headers = {"authorization": "Bearer wrong"}
        call = SocketCall(talk.sockets_url, additional_headers=headers)
        return await StreamTalk(call).end()

    return grpc, http, socket


NAN = np.full((1, FEATURES), np.nan, "<f4")
TABLE = {
    "a bad token": ("TOKEN_INVALID", strangers()),
    "an unknown model": ("MODEL_NOT_FOUND", by_opening("none")),
    "a model without streams": ("MODEL_NOT_CAUSAL", by_opening(BILSTM)),
    "a bad id": ("FIELD_INVALID", by_opening(LSTM, session_id="not an id!")),
    "an unknown initial state": ("INITIAL_UNKNOWN", by_opening(LSTM, initial="none")),
    "too many sessions": ("TOO_MANY_SESSIONS", by_opening(LSTM)),
    "a wrong width": ("INPUT_SHAPE", by_steps(2, ROW[:, :3])),
    "a NaN": ("INPUT_NOT_FINITE", by_steps(2, NAN)),
    "no number": ("FIELD_INVALID", by_steps(0)),
    "a gap": ("SEQUENCE_GAP", by_steps(4)),
    "a reused number": ("SEQUENCE_REUSED", by_steps(1, ROW * 2)),
    "more steps than the window": ("FIELD_INVALID", by_steps(2, np.repeat(ROW, 9, 0))),
    "a sequence too long": ("SEQUENCE_TOO_LONG", by_sequences(LSTM, np.repeat(ROW, 65, 0))),
    "a quota": ("QUOTA_EXCEEDED", by_sequences(LSTM, np.repeat(ROW, 62, 0))),
    "a large message": ("MESSAGE_TOO_LARGE", by_sequences(LSTM, np.zeros((4200, FEATURES), "<f4"))),
    "an unknown token": ("UNKNOWN_TOKEN", by_sequences(GRU_BYTES, np.array([256], "<i4"))),
    "a model that draws no tokens": (
        "MODEL_NOT_GENERATIVE",
        by_generating(LSTM, text="a", max_tokens=1),
    ),
    "too many tokens": ("FIELD_INVALID", by_generating(GRU_BYTES, text="a", max_tokens=33)),
    "a long prompt": ("SEQUENCE_TOO_LONG", by_generating(GRU_BYTES, text="a" * 65, max_tokens=1)),
}


@pytest.mark.parametrize("what", TABLE)
async def test_all_doors_refuse_alike(talk, what):
    reason, (grpc, http, *socket) = TABLE[what]
    session = (await talk.stubs.open(LSTM)).id
    await talk.stubs.inference.Step(step(session, 1))
    if what == "too many sessions":
        await talk.stubs.open(LSTM)
    by_grpc, reply = await grpc(talk, session), await http(talk, session)
    problem = reply.json()
    assert by_grpc.reason == problem["reason"] == reason
    assert reply.status_code == STATUS[reason]
    assert problem["fix"] == ERRORS[reason].fix
    violation = by_grpc.bad_request
    if violation is not None and what != "a large message":
        assert problem["field"] == violation.field_violations[0].field
    if by_grpc.retry is not None:
        assert problem["retry_after_s"] == pytest.approx(
            by_grpc.retry.retry_delay.ToNanoseconds() / 1e9, abs=1.0
        )
    for one in socket:
        assert (await one(talk, session)).reason == reason
    applied = (await talk.http.get(f"/api/sessions/{session}")).json()["applied"]
    assert applied == 1, "nothing is lost and nothing runs by a refusal"


async def test_both_doors_refuse_in_a_drain(door):
    session = (await door.stubs.open("echo")).id
    await door.doors.drain(5)
    rows = np.ones((1, WIDTH), "<f4")
    by_grpc = await refused(door.stubs.inference.Step(step(session, 1, rows)))
    reply = await door.http.post(
        f"/api/sessions/{session}/steps", json={"first_seq": 1, "inputs": rows.tolist()}
    )
    assert by_grpc.reason == reply.json()["reason"] == "DRAINING"


async def test_a_session_has_one_line_of_numbers_at_both_doors(talk):
    """Steps alternate between the doors; a step that both send runs once."""
    session = (await talk.stubs.open(LSTM)).id
    path, total = f"/api/sessions/{session}/steps", 6
    for seq in range(1, total + 1):
        rows = ROW * seq
        by_grpc = talk.stubs.inference.Step(step(session, seq, rows, ack=seq - 1))
        by_http = post(talk, path, first_seq=seq, inputs=rows.tolist(), ack=seq - 1)
        one, other = await asyncio.gather(by_grpc, by_http)
        outputs = np.frombuffer(one.outputs, "<f4").tolist()
        assert other.json()["outputs"]["y"] == [outputs]
    assert (await talk.http.get(f"/api/sessions/{session}")).json()["applied"] == total
