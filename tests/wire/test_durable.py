"""Sessions that outlive the server, on the real wire: a real server, its store, and raw messages."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from support.server import FEATURES, GRU_BYTES, LSTM, ServerProcess
from support.wire import StreamTalk, Stubs, refused, unpack

from carousel_protos.v1 import carousel_pb2 as pb

X = np.random.default_rng(5).standard_normal((12, FEATURES)).astype("<f4")
ASYNC = pb.OpenSessionRequest(model=LSTM, session_id="s")
OUTPUT_BYTES = 12


@pytest.fixture
def server(models_dir, tmp_path: Path):
    """A server on a file of its own; `again` starts another on the same file and port."""
    with Durable(models_dir, tmp_path / "sessions.db") as started:
        yield started


class Durable(ServerProcess):
    """A server with a store, which parks what was idle for half a second."""

    def __init__(self, models_dir: Path, path: Path, port: int = 0) -> None:
        super().__init__(
            models_dir, port=port, store=f"sqlite:{path}", park_after_s=0.5, slots=4, window_steps=8
        )
        self._again = (models_dir, path)

    def again(self) -> Durable:
        return Durable(*self._again, port=self.port)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


async def undisturbed(stubs: Stubs, steps: int) -> list[bytes]:
    """What X gives in a session that nothing happens to."""
    stream = await stubs.attach()
    request = pb.OpenSessionRequest(model=LSTM, durability=pb.DURABILITY_NONE)
    await stream.bind(1, open=request)
    outputs = [await stream.step(1, seq + 1, X[seq : seq + 1]) for seq in range(steps)]
    await stream.say(unbind=pb.Unbind(handle=1, close=True))
    await stream.hear("unbound")
    return outputs


async def hear_outputs(stream: StreamTalk) -> pb.BlockResult:
    """The next outputs; news of the store may come before them."""
    while (reply := await stream.hear()).HasField("durable"):
        pass
    assert reply.HasField("outputs"), reply
    return reply.outputs


async def hear_durable(stream: StreamTalk, seq: int) -> None:
    """Returns once the store has a step."""
    while (await stream.hear("durable")).durable.durables[0] < seq:
        pass


async def test_unspecified_is_async_with_a_store_and_the_store_says_so(server):
    async with Stubs(server.target) as stubs:
        stream = await stubs.attach()
        session = await stream.bind(1, open=ASYNC)
        assert session.durability == pb.DURABILITY_ASYNC
        assert session.execution_class.startswith("cpu float32 torch-")
        await stream.step(1, 1, X[:1])
        await hear_durable(stream, 1)


async def test_sync_tells_the_store_first(server):
    async with Stubs(server.target) as stubs:
        stream = await stubs.attach()
        request = pb.OpenSessionRequest(model=LSTM, durability=pb.DURABILITY_SYNC_FSYNC)
        await stream.bind(1, open=request)
        await stream.block([1], [1], X[None, :2])
        assert (await stream.hear("durable")).durable.durables == [2]
        assert (await stream.hear("outputs")).outputs.steps == 2


async def test_kill_and_start_again_goes_on_from_the_last_durable_step(server):
    async with Stubs(server.target) as stubs:
        expected = await undisturbed(stubs, 5)
        stream = await stubs.attach()
        await stream.bind(1, open=ASYNC)
        for seq in (1, 2, 3):
            await stream.block([1], [seq], X[None, seq - 1 : seq])
            assert (await hear_outputs(stream)).outputs == expected[seq - 1]
        await hear_durable(stream, 3)
    server.kill()
    with server.again() as again:
        async with Stubs(again.target) as stubs:
            stream = await stubs.attach()
            session = await stream.bind(1, session_id="s", epoch_floor=1)
            assert (session.applied, session.durable, session.epoch) == (3, 3, 2)
            await stream.say(replay=pb.Replay(handle=1))
            assert (await hear_outputs(stream)).outputs == b"".join(expected[:3])
            await stream.block([1], [4], X[None, 3:5])
            assert (await hear_outputs(stream)).outputs == b"".join(expected[3:])


async def test_a_parked_session_answers_its_next_block_as_if_it_had_never_left(server):
    async with Stubs(server.target) as stubs:
        expected = await undisturbed(stubs, 4)
        stream = await stubs.attach()
        for handle in (1, 2):
            await stream.bind(handle, open=pb.OpenSessionRequest(model=LSTM))
        await stream.block([1, 2], [1, 1], np.stack([X[:1], X[:1]]))
        await hear_outputs(stream)
        await all_parked(stubs, 2)
        await stream.say(acks=pb.Acks(handles=[1], acks=[1]))
        await stream.block([1, 2], [2, 2], np.stack([X[1:2], X[1:2]]))
        await stream.block([1], [3], X[None, 2:4])
        got: dict[int, bytes] = {1: b"", 2: b""}
        while len(got[1]) < 3 * OUTPUT_BYTES or len(got[2]) < OUTPUT_BYTES:
            outputs = await hear_outputs(stream)
            for i, handle in enumerate(outputs.handles):
                size = outputs.steps * OUTPUT_BYTES
                got[handle] += outputs.outputs[i * size : (i + 1) * size]
        assert got == {1: b"".join(expected[1:4]), 2: expected[1]}


async def all_parked(stubs: Stubs, count: int) -> list[pb.Session]:
    """Waits until the store has them all and the device none."""
    async with asyncio.timeout(20):
        while True:
            page = await stubs.sessions.ListSessions(pb.ListSessionsRequest())
            if [s.phase for s in page.sessions] == [pb.PHASE_PARKED] * count:
                return list(page.sessions)
            await asyncio.sleep(0.05)


async def test_a_parked_session_can_be_read_stepped_replayed_and_closed(server):
    async with Stubs(server.target) as stubs:
        expected = await undisturbed(stubs, 3)
        stream = await stubs.attach()
        await stream.bind(1, open=ASYNC)
        await stream.block([1], [1], X[None, :2])
        await hear_outputs(stream)
        (listed,) = await all_parked(stubs, 1)
        got = await stubs.sessions.GetSession(pb.GetSessionRequest(session_id="s"))
        assert got.session == listed
        assert (listed.applied, listed.durable) == (2, 2)
        await stream.say(replay=pb.Replay(handle=1))
        assert (await hear_outputs(stream)).outputs == b"".join(expected[:2])
        await all_parked(stubs, 1)
        request = pb.StepRequest(session_id="s", first_seq=3, inputs=X[2:3].tobytes(), ack=2)
        assert (await stubs.inference.Step(request)).outputs == expected[2]
        await all_parked(stubs, 1)
        assert (await stubs.inference.Step(request)).outputs == expected[2], "kept, not run again"
        await all_parked(stubs, 1)
        closed = await stubs.sessions.CloseSession(pb.CloseSessionRequest(session_id="s"))
        assert closed.session.applied == 3
        error = await refused(stubs.sessions.GetSession(pb.GetSessionRequest(session_id="s")))
        assert error.reason == "SESSION_CLOSED"


async def test_a_handle_of_a_parked_session_can_be_given_back(server):
    async with Stubs(server.target) as stubs:
        stream = await stubs.attach()
        await stream.bind(1, open=ASYNC)
        await all_parked(stubs, 1)
        await stream.say(bind=pb.Bind(handle=1, session_id="s"))
        assert unpack((await stream.hear("failure")).failure.status).reason == "HANDLE_IN_USE"
        await stream.say(unbind=pb.Unbind(handle=1, close=True))
        assert not (await stream.hear("unbound")).unbound.HasField("status")
        error = await refused(until_gone(stubs, "s"))
        assert error.reason == "SESSION_CLOSED"


async def until_gone(stubs: Stubs, session_id: str) -> None:
    """Asks for a session until that fails."""
    request = pb.GetSessionRequest(session_id=session_id)
    async with asyncio.timeout(10):
        while (await stubs.sessions.GetSession(request)).session.id == session_id:
            pass


async def test_more_sessions_than_slots_all_go_on(server):
    async with Stubs(server.target) as stubs:
        expected = await undisturbed(stubs, 3)
        stream = await stubs.attach()
        count = 40
        got: dict[int, bytes] = dict.fromkeys(range(1, count + 1), b"")
        for handle in got:
            await stream.say(bind=pb.Bind(handle=handle, open=pb.OpenSessionRequest(model=LSTM)))
            while not (reply := await stream.hear()).HasField("bound"):
                assert reply.HasField("durable"), reply
        for seq in (1, 2, 3):
            for handle in got:
                await stream.block([handle], [seq], X[None, seq - 1 : seq])
                outputs = await hear_outputs(stream)
                got[outputs.handles[0]] += outputs.outputs
        assert set(got.values()) == {b"".join(expected)}


async def test_a_bind_from_the_past_is_refused_with_the_newest_number(server):
    async with Stubs(server.target) as stubs:
        older, newer = await stubs.attach(), await stubs.attach()
        await newer.bind(1, open=ASYNC, attach_id=7)
        await older.say(bind=pb.Bind(handle=1, session_id="s", attach_id=6))
        error = unpack((await older.hear("failure")).failure.status)
        assert (error.reason, error.metadata["attach_id"]) == ("SUPERSEDED", "7")


async def test_a_text_goes_on_where_the_kill_stopped_it(server):
    def request(**more):
        return pb.GenerateRequest(
            session_id="g", text="def", max_tokens=400, first_seq=1,
            sampling=pb.Sampling(seed=3), **more,
        )  # fmt: skip

    async with Stubs(server.target) as stubs:
        await stubs.open(GRU_BYTES, "g")
        call = stubs.inference.Generate(request())
        told = [token.id async for message in take(call, 60) for token in message.tokens]
    server.kill()
    with server.again() as again:
        async with Stubs(again.target) as stubs:
            retold = []
            async for message in stubs.inference.Generate(request()):
                retold += [token.id for token in message.tokens]
                usage = message.usage
            assert retold[: len(told)] == told
            assert (len(retold), usage.generated_tokens) == (400, 400)
            error = await refused(drained(stubs.inference.Generate(request(logprobs=1))))
            assert error.reason == "SEQUENCE_REUSED"
        async with Stubs(again.target) as stubs:
            whole = pb.GenerateRequest(
                model=GRU_BYTES, text="def", max_tokens=400, sampling=pb.Sampling(seed=3)
            )
            alone = [t.id async for m in stubs.inference.Generate(whole) for t in m.tokens]
            assert alone == retold


async def take(call, count):
    """Messages until so many tokens have come."""
    async for message in call:
        yield message
        count -= len(message.tokens)
        if count <= 0:
            return


async def drained(call):
    async for _ in call:
        pass


async def test_a_drain_keeps_everything(server):
    async with Stubs(server.target) as stubs:
        expected = await undisturbed(stubs, 3)
        stream = await stubs.attach()
        await stream.bind(1, open=ASYNC)
        await stream.block([1], [1], X[None, :2])
        kinds = {(await stream.hear("outputs")).WhichOneof("event")}
        server.process.send_signal(signal.SIGTERM)
        while not {"durable", "drain"} <= kinds:
            kinds.add((await stream.hear()).WhichOneof("event"))
        assert (await stream.end()).reason == "DRAINING"
        assert server.wait() == 0
    with server.again() as again:
        async with Stubs(again.target) as stubs:
            stream = await stubs.attach()
            assert (await stream.bind(1, session_id="s")).applied == 2
            assert await stream.step(1, 3, X[2:3]) == expected[2]


def test_a_second_server_on_the_same_file_is_told_why_not(server, models_dir, tmp_path):
    second = Durable(models_dir, tmp_path / "sessions.db")
    with pytest.raises(AssertionError, match="did not start") as caught, second:
        pass
    assert "sessions.db" in str(caught.value)


async def test_what_a_store_cannot_promise_is_refused(models_dir):
    with ServerProcess(models_dir, store="memory") as server:
        async with Stubs(server.target) as stubs:
            error = await refused(stubs.open(LSTM, durability=pb.DURABILITY_SYNC_FSYNC))
            assert error.reason == "DURABILITY_UNAVAILABLE"
            assert "NONE, ASYNC, SYNC" in error.message
            assert json.loads(json.dumps(server.models))


async def test_a_name_in_the_store_cannot_be_used_for_a_session_without_one(server):
    async with Stubs(server.target) as stubs:
        await stubs.open(LSTM, "s")
        await all_parked(stubs, 1)
        error = await refused(stubs.open(LSTM, "s", durability=pb.DURABILITY_NONE))
        assert error.reason == "SESSION_EXISTS"
        await stubs.open(LSTM, "s")
        error = await refused(stubs.open(LSTM, "s", durability=pb.DURABILITY_NONE))
        assert error.reason == "SESSION_EXISTS"
