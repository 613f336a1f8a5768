"""Sessions that move between two real servers with one Redis: asked for, taken over, drained, rebalanced."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from support.redis import RedisServer, free_port
from support.server import FEATURES, GRU_BYTES, LSTM, ServerProcess
from support.triton import TritonStubs
from support.wire import StreamTalk, Stubs, refused, unpack

from carousel import Client
from carousel_protos.placement import placed
from carousel_protos.v1 import carousel_pb2 as pb

STEPS = 40
X = np.random.default_rng(7).standard_normal((STEPS, FEATURES)).astype("<f4")
OPEN = pb.OpenSessionRequest(model=LSTM, session_id="s")
PATIENCE_S = 60.0


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


class Replicas:
    """Servers of one store, which know of each other within a second."""

    def __init__(self, models: Path, url: str) -> None:
        self._models, self._url = models, url
        self._count = 0

    def start(self, **settings: object) -> ServerProcess:
        """One more. It parks nothing meanwhile."""
        self._count += 1
        return ServerProcess(
            self._models, store=self._url, replica=f"r{self._count}", lease_ttl_s=2, strict=True,
            park_after_s=600, window_steps=8, **{"moves_per_s": 0, **settings},
        )  # fmt: skip


@pytest.fixture
def replicas(models_dir: Path, redis: RedisServer) -> Replicas:
    return Replicas(models_dir, redis.url)


@pytest.fixture
def pair(replicas: Replicas) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    with replicas.start() as here, replicas.start() as there:
        for server in (here, there):
            server.metrics_once('carousel_replicas{accepting="true"} 2.0')
        yield here, there


async def attach(stubs: Stubs, *, follows: bool) -> StreamTalk:
    talk = await stubs.attach(hello=False)
    await talk.say(hello=pb.Hello(client="test", follows_moves=follows))
    await talk.hear("welcome")
    return talk


async def hear(talk: StreamTalk, kind: str) -> pb.AttachResponse:
    """The next message of a kind. Notices of the store, and of a drain, are passed over."""
    async with asyncio.timeout(PATIENCE_S):
        while (message := await talk.hear()).WhichOneof("event") in ("durable", "drain"):
            pass
    assert message.WhichOneof("event") == kind, message
    return message


async def step(talk: StreamTalk, seq: int) -> bytes:
    await talk.block([1], [seq], X[None, seq - 1 : seq], acks=[seq - 1])
    return (await hear(talk, "outputs")).outputs.outputs


async def undisturbed(stubs: Stubs) -> list[bytes]:
    """What X gives in a session that nothing happens to."""
    talk = await stubs.attach()
    await talk.bind(1, open=pb.OpenSessionRequest(model=LSTM, durability=pb.DURABILITY_NONE))
    return [await step(talk, seq + 1) for seq in range(STEPS)]


def test_a_session_without_a_stream_is_handed_over_at_once(
    pair: tuple[ServerProcess, ServerProcess],
) -> None:
    """Not only when it parks, which is after ten minutes."""

    async def play() -> None:
        async with Stubs(pair[0].target) as here, Stubs(pair[1].target) as there:
            expected = await undisturbed(here)
            for seq in range(
                1, 13
            ):  # each call lands elsewhere, as behind a proxy that does not hash
                stubs = (here, there)[seq % 2]
                if seq == 1:
                    await here.open(LSTM, "s")
                request = pb.StepRequest(
                    session_id="s", first_seq=seq, inputs=X[seq - 1].tobytes(), ack=seq - 1
                )
                reply = await stubs.inference.Step(request, timeout=PATIENCE_S)
                assert reply.outputs == expected[seq - 1]
            stream = await attach(there, follows=False)
            assert (await stream.bind(1, session_id="s")).applied == 12

    asyncio.run(play())
    name = "carousel_sessions_handed_over_total"
    labels = f'model="{LSTM}",why="asked"'
    for direction, count in (("in", 7), ("out", 6)):
        pair[1].metrics_once(f'{name}{{direction="{direction}",{labels}}} {count}.0')


@pytest.mark.parametrize("follows", [False, True])
def test_a_session_of_a_stream_is_redirected_to_and_taken_over_if_that_is_asked_for(
    pair: tuple[ServerProcess, ServerProcess], follows: bool
) -> None:
    async def play() -> None:
        async with Stubs(pair[0].target) as here, Stubs(pair[1].target) as there:
            expected = await undisturbed(here)
            older, newer = await attach(here, follows=follows), await attach(there, follows=True)
            await older.bind(1, open=OPEN)
            assert await step(older, 1) == expected[0]
            await newer.say(bind=pb.Bind(handle=1, session_id="s"))
            error = unpack((await hear(newer, "failure")).failure.status)
            assert (error.reason, error.metadata["owner"]) == ("SESSION_HELD", pair[0].target)
            assert await step(older, 2) == expected[1], "it goes on"
            await newer.say(bind=pb.Bind(handle=1, session_id="s", take_over=True))
            assert (await hear(newer, "bound")).bound.session.applied == 2
            if follows:
                moved = (await hear(older, "moved")).moved
                assert (moved.handle, moved.address) == (1, pair[1].target)
            else:
                error = unpack((await hear(older, "unbound")).unbound.status)
                assert (error.reason, error.metadata["owner"]) == ("LEASE_LOST", pair[1].target)
            assert await step(newer, 3) == expected[2]
            await older.say(bind=pb.Bind(handle=2, session_id="s"))
            error = unpack((await hear(older, "failure")).failure.status)
            assert (error.reason, error.metadata["owner"]) == ("SESSION_HELD", pair[1].target)

    asyncio.run(play())


def test_an_opening_takes_over_what_an_earlier_try_opened(
    pair: tuple[ServerProcess, ServerProcess],
) -> None:
    async def play() -> None:
        async with Stubs(pair[0].target) as here, Stubs(pair[1].target) as there:
            older, newer = await attach(here, follows=True), await attach(there, follows=True)
            await older.bind(1, open=OPEN)
            await newer.say(bind=pb.Bind(handle=1, open=OPEN))
            error = unpack((await hear(newer, "failure")).failure.status)
            assert error.reason == "SESSION_HELD"
            await newer.say(bind=pb.Bind(handle=1, open=OPEN, take_over=True))
            assert (await hear(newer, "bound")).bound.session.applied == 0
            assert (await hear(older, "moved")).moved.address == pair[1].target

    asyncio.run(play())


class Follower:
    """A client of one session that keeps up to four steps in flight, and follows its session.

    Attributes:
        outputs: as they came, each step once.
        moves: the addresses that it was sent to.
        is_under_way: set after ten outputs.
    """

    def __init__(self, session_id: str, stack: AsyncExitStack, *, stays: bool = False) -> None:
        """The last ten steps are sent after the first move, unless the session `stays`."""
        self.session_id = session_id
        self.outputs: list[bytes] = []
        self.moves: list[str] = []
        self.is_under_way = asyncio.Event()
        self._stack = stack
        self._stays = stays

    async def run(self, target: str) -> None:
        """Steps to the end."""
        while target:
            stubs = await self._stack.enter_async_context(Stubs(target))
            talk = await attach(stubs, follows=True)
            target = await self._converse(talk)
            if target:
                self.moves.append(target)

    async def _converse(self, talk: StreamTalk) -> str:
        """One stream; returns where to go on, "" at the end."""
        bind = pb.Bind(handle=1, session_id=self.session_id)
        if not self.moves:
            bind.open.model, bind.open.session_id = LSTM, self.session_id
        await talk.say(bind=bind)
        sent = (await hear(talk, "bound")).bound.session.applied
        assert sent >= len(self.outputs), "a step whose output has come is not in the store"
        if sent > len(self.outputs):
            await talk.say(replay=pb.Replay(handle=1))
        most = STEPS if self.moves or self._stays else STEPS - 10
        while len(self.outputs) < STEPS:
            while sent < min(most, len(self.outputs) + 4):
                await talk.block(
                    [1], [sent + 1], X[None, sent : sent + 1], acks=[len(self.outputs)]
                )
                sent += 1
            async with asyncio.timeout(PATIENCE_S):
                message = await talk.hear()
            if message.HasField("moved"):
                return message.moved.address
            if message.HasField("outputs"):
                self._take(message.outputs)
            else:
                assert message.WhichOneof("event") in ("durable", "drain"), message
        return ""

    def _take(self, result: pb.BlockResult) -> None:
        assert result.first_seqs[0] == len(self.outputs) + 1, "in order, each once"
        size = len(result.outputs) // result.steps
        self.outputs += [result.outputs[i : i + size] for i in range(0, len(result.outputs), size)]
        if len(self.outputs) >= 10:
            self.is_under_way.set()


def test_a_drain_hands_sessions_over_while_they_stream(
    pair: tuple[ServerProcess, ServerProcess],
) -> None:
    async def play() -> None:
        async with AsyncExitStack() as stack, Stubs(pair[1].target) as there:
            expected = await undisturbed(there)
            followers = [Follower(f"s{i}", stack) for i in range(8)]
            talks = asyncio.gather(*(one.run(pair[0].target) for one in followers))
            await asyncio.gather(*(one.is_under_way.wait() for one in followers))
            stubs = await stack.enter_async_context(Stubs(pair[0].target))
            empty = await attach(stubs, follows=True)
            pair[0].signal()
            assert await empty.end() is None, "a stream without sessions ends well, and at once"
            await talks
            for one in followers:
                assert one.moves == [pair[1].target]
                assert one.outputs == expected

    asyncio.run(play())
    assert pair[0].wait() == 0
    assert "8 sessions were handed over to other replicas" in pair[0].text
    for server in pair:
        assert "Traceback" not in server.text


async def infer(stubs: TritonStubs, name: str, n: int) -> bytes:
    """The output of step n of an async sequence, of which no server has lost a step."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                found = await stubs.infer(LSTM, X[n], name, start=n == 0)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.05)
            else:
                return found["y"].tobytes()


def test_async_sequences_of_triton_move_in_good_order(
    pair: tuple[ServerProcess, ServerProcess],
) -> None:
    """Back and forth, on request and at a drain. No step that was answered is missing."""

    async def play() -> None:
        async with TritonStubs(pair[0].target) as here, TritonStubs(pair[1].target) as there:
            expected = [await infer(there, "quiet", n) for n in range(24)]
            found = {f"q{i}": [] for i in range(6)}
            for n in range(12):
                for name, outputs in found.items():
                    outputs.append(await infer((here, there)[n // 3 % 2], name, n))
            for name, outputs in found.items():
                outputs.append(await infer(here, name, 12))
            pair[0].signal()
            for n in range(13, 24):
                for name, outputs in found.items():
                    outputs.append(await infer(there, name, n))
            assert all(outputs == expected for outputs in found.values())

    asyncio.run(play())
    assert pair[0].wait() == 0
    for server in pair:
        assert "Traceback" not in server.text


def test_an_async_sequence_of_a_killed_server_says_so_at_every_replica(
    pair: tuple[ServerProcess, ServerProcess], replicas: Replicas
) -> None:
    """A move in good order does not hide what a crash before it has lost. A START ends that."""
    here, there = pair

    async def play() -> None:
        async with TritonStubs(here.target) as stubs:
            for n in range(3):
                await infer(stubs, "q", n)
        here.process.kill()
        here.wait()
        for server in (there, third, there):
            async with TritonStubs(server.target) as stubs:
                assert (await lost(stubs)).reason == "DATA_LOSS"
        async with TritonStubs(there.target) as stubs:
            first = await infer(stubs, "q", 0)
        async with TritonStubs(third.target) as stubs:
            assert await infer(stubs, "q", 1) != first

    async def lost(stubs: TritonStubs) -> Any:
        """The refusal. The lease of the killed server must end before that."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                error = await refused(stubs.infer(LSTM, X[3], "q"))
                if error.reason != "SESSION_HELD":
                    return error
                await asyncio.sleep(0.05)

    with replicas.start() as third:
        asyncio.run(play())


def test_a_client_of_one_address_survives_a_drain_beside_another_replica(
    pair: tuple[ServerProcess, ServerProcess], replicas: Replicas
) -> None:
    """It does not follow moves, so its sessions stay until the server stops, and it comes back after that."""
    here, there = pair
    with Client(there.target) as client:
        quiet = client.session(LSTM, durability="none")
        expected = [quiet.step(row).copy() for row in X]
    with Client(here.target) as client:
        session = client.session(LSTM)
        outputs = [session.step(row).copy() for row in X[:10]]
        here.signal()
        assert here.wait() == 0
        with replicas.start(port=here.port):
            outputs += [session.step(row).copy() for row in X[10:]]
    np.testing.assert_array_equal(outputs, expected)


def test_a_new_replica_gets_its_share(replicas: Replicas) -> None:
    with replicas.start() as quiet:

        async def undisturbed_there() -> list[bytes]:
            async with Stubs(quiet.target) as stubs:
                return await undisturbed(stubs)

        expected = asyncio.run(undisturbed_there())

    async def play(here: ServerProcess) -> None:
        async with AsyncExitStack() as stack:
            port = free_port()
            addresses = [here.target, f"127.0.0.1:{port}"]
            followers = {
                session_id: Follower(
                    session_id, stack, stays=placed(session_id, addresses) == here.target
                )
                for session_id in (f"s{i}" for i in range(12))
            }
            talks = asyncio.gather(*(one.run(here.target) for one in followers.values()))
            await asyncio.gather(*(one.is_under_way.wait() for one in followers.values()))
            with replicas.start(port=port, moves_per_s=1000):
                await talks
            for session_id, one in followers.items():
                owner = placed(session_id, addresses)
                assert one.moves == ([] if owner == here.target else [owner])
                assert one.outputs == expected

    with replicas.start(moves_per_s=1000) as here:
        asyncio.run(play(here))
        assert "rebalance: the replicas are" in here.text
        assert "carousel_rebalances_total 1.0" in here.metrics_once("carousel_rebalances_total 1.0")


def test_a_generation_goes_on_at_another_replica(pair: tuple[ServerProcess, ServerProcess]) -> None:
    """Its caller gets an error that names the owner, and asks there again."""
    request: dict[str, Any] = {
        "session_id": "g", "max_tokens": 400, "first_seq": 1,
        "sampling": pb.Sampling(seed=3, temperature=1.0),
    }  # fmt: skip
    prompt = pb.Tokens(ids=[1, 2, 3])

    async def play() -> None:
        async with Stubs(pair[0].target) as here, Stubs(pair[1].target) as there:
            await here.open(GRU_BYTES, "g")
            first = here.inference.Generate(pb.GenerateRequest(tokens=prompt, **request))
            got = [token.id for token in (await first.read()).tokens]
            stream = await attach(there, follows=True)
            await stream.say(bind=pb.Bind(handle=1, session_id="g", take_over=True))
            await hear(stream, "bound")
            again = there.inference.Generate(pb.GenerateRequest(tokens=prompt, **request))
            tokens = [token.id async for message in again for token in message.tokens]
            assert len(tokens) == 400
            assert tokens[: len(got)] == got

    asyncio.run(play())


def test_a_session_that_another_replica_runs_is_shown_as_that_ones(
    pair: tuple[ServerProcess, ServerProcess],
) -> None:
    """Its cursors are those of the store. Requests that need more are refused with the holder's address."""

    async def play() -> None:
        async with Stubs(pair[0].target) as here, Stubs(pair[1].target) as there:
            stream = await attach(here, follows=False)
            await stream.bind(1, open=OPEN)
            await step(stream, 1)
            own, seen = await shown(here), await shown(there)
            assert [(one.holder, one.applied) for one in own] == [("", 1)] * 2
            for one in seen:
                assert (one.holder, one.phase) == (pair[0].target, pb.PHASE_RESIDENT)
                assert (one.applied, one.ack) == (one.durable, 0)
            sessions = there.sessions
            for call, request in (
                (sessions.CloseSession, pb.CloseSessionRequest(session_id="s")),
                (sessions.ForkSession, pb.ForkSessionRequest(session_id="s")),
                (sessions.GetState, pb.GetStateRequest(session_id="s")),
                (sessions.ExportSession, pb.ExportSessionRequest(session_id="s")),
            ):
                error = await refused(call(request, timeout=PATIENCE_S))
                assert (error.reason, error.metadata["owner"]) == ("SESSION_HELD", pair[0].target)
            await step(stream, 2)
            assert [(one.holder, one.applied) for one in await shown(here)] == [("", 2)] * 2

    asyncio.run(play())


def test_a_request_for_a_session_without_a_stream_is_answered_where_it_comes_to(
    pair: tuple[ServerProcess, ServerProcess],
) -> None:
    async def play() -> None:
        async with Stubs(pair[0].target) as here, Stubs(pair[1].target) as there:
            stream = await attach(here, follows=False)
            await stream.bind(1, open=OPEN)
            for seq in (1, 2, 3):
                await step(stream, seq)
            await stream.say(unbind=pb.Unbind(handle=1))
            await hear(stream, "unbound")
            request = pb.GetStateRequest(session_id="s")
            reply = await there.sessions.GetState(request, timeout=PATIENCE_S)
            assert (reply.session.applied, reply.session.holder) == (3, "")
            assert [one.holder for one in await shown(here)] == [pair[1].target] * 2
            fork = pb.ForkSessionRequest(session_id="s", new_session_id="copy")
            assert (await here.sessions.ForkSession(fork, timeout=PATIENCE_S)).session.applied == 3
            close = pb.CloseSessionRequest(session_id="copy")
            closed = (await there.sessions.CloseSession(close, timeout=PATIENCE_S)).session
            assert (closed.applied, closed.phase) == (3, pb.PHASE_CLOSED)

    asyncio.run(play())


async def shown(stubs: Stubs) -> list[pb.Session]:
    """The session as GetSession and ListSessions show it."""
    get = pb.GetSessionRequest(session_id="s")
    got = await stubs.sessions.GetSession(get, timeout=PATIENCE_S)
    listed = await stubs.sessions.ListSessions(pb.ListSessionsRequest(), timeout=PATIENCE_S)
    (found,) = listed.sessions
    return [got.session, found]
