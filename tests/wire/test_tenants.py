"""Quotas of tenants on a real wire: each is refused by name at every door, and others go on."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.server import FEATURES, GRU_BYTES, LSTM, ServerProcess
from support.triton import TritonStubs
from support.wire import Stubs, refused, unpack

import carousel
from carousel_protos.v1 import carousel_pb2 as pb

TENANTS = {"greedy": "token-one", "modest": "token-two"}
ROW = np.ones((1, FEATURES), "<f4")
SESSIONS, STREAMS, STEPS, INFER_STEPS, SLOTS = 4, 2, 6, 100, 8


def tokens() -> str:
    hashes = {name: hashlib.sha256(t.encode()).hexdigest() for name, t in TENANTS.items()}
    return json.dumps(hashes)


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "front ends"])
def limited(request: pytest.FixtureRequest, models_dir: Any) -> Iterator[ServerProcess]:
    """A server with small quotas and two tenants."""
    with ServerProcess(
        models_dir,
        slots=SLOTS,
        tenant_sessions=SESSIONS,
        tenant_streams=STREAMS,
        tenant_steps=STEPS,
        tenant_infer_steps=INFER_STEPS,
        front_ends=request.param,
        tokens=tokens(),
    ) as process:
        yield process


@pytest.fixture
async def talk(limited: ServerProcess) -> AsyncIterator[SimpleNamespace]:
    """Clients of both tenants. Afterwards every session is closed."""
    async with (
        Stubs(limited.target, "token-one") as greedy,
        Stubs(limited.target, "token-two") as modest,
        TritonStubs(limited.target, "token-one") as triton,
    ):
        yield SimpleNamespace(greedy=greedy, modest=modest, triton=triton)
        for stubs in (greedy, modest):
            page = await stubs.sessions.ListSessions(pb.ListSessionsRequest())
            for session in page.sessions:
                await stubs.sessions.CloseSession(pb.CloseSessionRequest(session_id=session.id))


def check(error: SimpleNamespace, setting: str, limit: int) -> None:
    """It names the tenant, the setting and its value, and when to try again."""
    assert error.reason == "QUOTA_EXCEEDED"
    named = {"tenant": "greedy", "quota": setting, "limit": str(limit)}
    assert named.items() <= error.metadata.items()
    (violation,) = error.quota.violations
    assert violation.subject == "greedy"
    assert f"({setting})" in violation.description
    assert str(limit) in violation.description
    assert error.retry.retry_delay.ToNanoseconds() > 0


async def other_goes_on(talk: SimpleNamespace) -> None:
    """The other tenant opens, steps, infers and streams."""
    session = await talk.modest.open(LSTM)
    request = pb.StepRequest(session_id=session.id, first_seq=1, inputs=ROW.tobytes())
    assert (await talk.modest.inference.Step(request)).outputs
    assert (await talk.modest.inference.Infer(infer(INFER_STEPS))).steps == INFER_STEPS
    stream = await talk.modest.attach()
    await stream.bind(1, session_id=session.id)
    await stream.step(1, 2, ROW)
    stream.call.cancel()


def infer(steps: int) -> pb.InferRequest:
    return pb.InferRequest(model=LSTM, inputs=np.repeat(ROW, steps, axis=0).tobytes())


async def test_sessions_at_every_door_that_opens_one(talk: SimpleNamespace) -> None:
    session, *_ = [await talk.greedy.open(LSTM) for _ in range(SESSIONS)]
    sessions = talk.greedy.sessions
    export = pb.ExportSessionRequest(session_id=session.id)
    snapshot = (await sessions.ExportSession(export)).snapshot
    for call in (
        talk.greedy.open(LSTM),
        talk.greedy.open(GRU_BYTES),  # they count on all models together
        sessions.ForkSession(pb.ForkSessionRequest(session_id=session.id)),
        sessions.ImportSession(pb.ImportSessionRequest(snapshot=snapshot, model=LSTM)),
    ):
        check(await refused(call), "tenant_sessions", SESSIONS)

    stream = await talk.greedy.attach()
    await stream.say(bind=pb.Bind(handle=1, open=pb.OpenSessionRequest(model=LSTM)))
    check(unpack((await stream.hear("failure")).failure.status), "tenant_sessions", SESSIONS)
    stream.call.cancel()

    generate = pb.GenerateRequest(model=GRU_BYTES, text="a", max_tokens=1)
    error = await refused(talk.greedy.inference.Generate(generate).read())
    check(error, "tenant_sessions", SESSIONS)

    error = await refused(talk.triton.infer(LSTM, ROW[0], 7, start=True))
    check(error, "tenant_sessions", SESSIONS)
    await other_goes_on(talk)
    await sessions.CloseSession(pb.CloseSessionRequest(session_id=session.id))
    await talk.greedy.open(LSTM)


async def test_streams(talk: SimpleNamespace, limited: ServerProcess) -> None:
    """They count over all front ends and both protocols."""
    streams = [await talk.greedy.attach() for _ in range(STREAMS)]
    async with Stubs(limited.target, "token-one") as elsewhere:
        check(await (await elsewhere.attach(hello=False)).end(), "tenant_streams", STREAMS)
    await other_goes_on(talk)
    for stream in streams:
        await stream.call.done_writing()
        assert await stream.end() is None
    again = await talk.greedy.attach()
    again.call.cancel()


async def test_steps_that_wait(talk: SimpleNamespace) -> None:
    """A block is accepted row by row. What was refused is sent again."""
    stream = await talk.greedy.attach()
    for handle in (1, 2):
        await stream.bind(handle, open=pb.OpenSessionRequest(model=LSTM))
    rows = np.ones((2, 4, FEATURES), "<f4")
    await stream.block([1, 2], [1, 1], rows)
    failure = next(
        reply.failure for reply in [await stream.hear(), await stream.hear()]
        if reply.HasField("failure")
    )  # fmt: skip
    assert (failure.handle, failure.seq) == (2, 1)
    check(unpack(failure.status), "tenant_steps", STEPS)
    await stream.block([2], [1], rows[1:])
    assert list((await stream.hear("outputs")).outputs.handles) == [2]
    await other_goes_on(talk)
    session = await talk.greedy.open(LSTM)
    many = np.repeat(ROW, STEPS + 1, axis=0).tobytes()
    request = pb.StepRequest(session_id=session.id, first_seq=1, inputs=many)
    check(await refused(talk.greedy.inference.Step(request)), "tenant_steps", STEPS)
    stream.call.cancel()


async def test_whole_sequences(talk: SimpleNamespace) -> None:
    error = await refused(talk.greedy.inference.Infer(infer(INFER_STEPS + 1)))
    check(error, "tenant_infer_steps", INFER_STEPS)
    await other_goes_on(talk)
    for _ in range(2):  # they are given back
        assert (await talk.greedy.inference.Infer(infer(INFER_STEPS))).steps == INFER_STEPS


async def test_one_tenant_leaves_slots_for_others(models_dir: Any) -> None:
    with ServerProcess(models_dir, slots=SLOTS, tokens=tokens()) as server:
        async with (
            Stubs(server.target, "token-one") as greedy,
            Stubs(server.target, "token-two") as modest,
        ):
            for _ in range(6):
                await greedy.open(LSTM)
            check(await refused(greedy.open(LSTM)), "tenant_share", 6)
            await modest.open(LSTM)
        server.metrics_once(
            'carousel_tenant_refusals_total{quota="tenant_share",tenant="greedy"} 1.0'
        )


async def test_sessions_in_the_store(models_dir: Any, tmp_path: Any) -> None:
    """They are limited where they are opened. What is open goes on."""
    settings = {"store": f"sqlite:{tmp_path / 'store'}", "tenant_stored_sessions": 2}
    with ServerProcess(models_dir, tokens=tokens(), **settings) as server:
        async with (
            Stubs(server.target, "token-one") as greedy,
            Stubs(server.target, "token-two") as modest,
        ):
            session, _ = [await greedy.open(LSTM) for _ in range(2)]
            sessions = greedy.sessions
            export = pb.ExportSessionRequest(session_id=session.id)
            snapshot = (await sessions.ExportSession(export)).snapshot
            for call in (
                greedy.open(LSTM),
                sessions.ForkSession(pb.ForkSessionRequest(session_id=session.id)),
                sessions.ImportSession(pb.ImportSessionRequest(snapshot=snapshot, model=LSTM)),
            ):
                check(await refused(call), "tenant_stored_sessions", 2)
            await greedy.open(LSTM, durability=pb.DURABILITY_NONE)
            request = pb.StepRequest(session_id=session.id, first_seq=1, inputs=ROW.tobytes())
            assert (await greedy.inference.Step(request)).outputs
            await modest.open(LSTM)
            await sessions.CloseSession(pb.CloseSessionRequest(session_id=session.id))
            # The store is asked again as soon as that costs little, so the SDK gets in.
            async with carousel.AsyncClient(server.target, token="token-one") as client:
                await client.session(LSTM)


async def test_a_server_without_tokens_has_one_tenant_that_shares_with_nobody(
    models_dir: Any,
) -> None:
    with ServerProcess(models_dir, slots=2, max_streams=2) as server:
        async with Stubs(server.target) as stubs:
            for _ in range(2):
                await stubs.open(LSTM)
                await stubs.attach()
            assert (await refused(stubs.open(LSTM))).reason == "SLAB_FULL"


# -- calls a second


@pytest.fixture(scope="module", params=[0, 1], ids=["one process", "front end"])
def slow(request: pytest.FixtureRequest, models_dir: Any) -> Iterator[ServerProcess]:
    """A server that takes a call in a thousand seconds of each tenant, after the first one."""
    with ServerProcess(
        models_dir,
        tenant_calls_per_s=0.001,
        front_ends=request.param,
        tokens=tokens(),
    ) as process:
        yield process


async def test_calls_are_refused_by_name_and_probes_pass(slow: ServerProcess) -> None:
    async with (
        Stubs(slow.target, "token-one") as greedy,
        Stubs(slow.target, "token-two") as modest,
        TritonStubs(slow.target, "token-one") as triton,
    ):
        await greedy.models.ListModels(pb.ListModelsRequest())
        session = "any"
        for call in (
            greedy.models.ListModels(pb.ListModelsRequest()),
            greedy.inference.Infer(infer(1)),
            greedy.inference.Step(pb.StepRequest(session_id=session, first_seq=1)),
            greedy.inference.Generate(pb.GenerateRequest(model=GRU_BYTES)).read(),
            greedy.open(LSTM),
            greedy.sessions.ForkSession(pb.ForkSessionRequest(session_id=session)),
            greedy.sessions.ImportSession(pb.ImportSessionRequest(snapshot=b"x")),
            triton.infer(LSTM, ROW[0], 7, start=True),
        ):
            error = await refused(call)
            assert error.metadata["quota"] == "tenant_calls_per_s"
            assert error.quota.violations[0].subject == "greedy"
            assert 900 < error.retry.retry_delay.ToSeconds() <= 1000
        error = await (await greedy.attach(hello=False)).end()
        assert error.metadata["quota"] == "tenant_calls_per_s"
        await modest.models.ListModels(pb.ListModelsRequest())
    health = [
        carousel.Client(slow.target, token=token).health() for token in TENANTS.values()
    ]  # no quota counts it
    assert all(health)


async def test_messages_of_a_stream_wait_for_their_turn(models_dir: Any) -> None:
    """None is refused, none is lost, and they come in order."""
    with ServerProcess(models_dir, tenant_calls_per_s=25, tokens=tokens()) as server:
        async with Stubs(server.target, "token-one") as greedy:
            stream = await greedy.attach()
            await stream.bind(1, open=pb.OpenSessionRequest(model=LSTM))
            for seq in range(1, 41):
                await stream.block([1], [seq], ROW[None])
            got: list[int] = []
            while len(got) < 40:
                outputs = (await asyncio.wait_for(stream.hear("outputs"), 60)).outputs
                got += range(outputs.first_seqs[0], outputs.first_seqs[0] + outputs.steps)
            assert got == list(range(1, 41))


# -- the SDK


def test_the_sdk_tries_again_and_then_says_which_quota(limited: ServerProcess) -> None:
    with carousel.Client(limited.target, token="token-one") as client:
        sessions = [client.session(LSTM) for _ in range(SESSIONS)]
        with (
            carousel.Client(limited.target, token="token-one", retries=0) as impatient,
            pytest.raises(carousel.exceptions.QuotaExceededError) as error,
        ):
            impatient.session(LSTM)
        assert error.value.retryable
        assert error.value.retry_after_s
        assert error.value.metadata["quota"] == "tenant_sessions"
        for session in sessions:
            session.close()
