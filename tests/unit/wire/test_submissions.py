"""Blocks of one turn of the loop: one submission for each engine, before any other command."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from support.fake_engine import ECHO, ECHO_TOKENS, CountingMetrics, FakeCatalog, FakeEngine
from support.unread import unread

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import Ack, Close, Replay, StepBlock, Unbind
from carousel_server.core.types import ModelView, SessionRef
from carousel_server.wire.attach import Conversation
from carousel_server.wire.gate import Gate
from carousel_server.wire.options import WireOptions
from carousel_server.wire.outbox import Outbox
from carousel_server.wire.stream import Stream
from carousel_server.wire.turns import Submissions

ROW = bytes(16)


class Engine(FakeEngine):
    """Notes the first seqs of each submission of blocks."""

    def __init__(self, model: ModelView = ECHO) -> None:
        super().__init__(model)
        self.submissions: list[list[int]] = []

    def submit_steps(self, blocks: Sequence[StepBlock]) -> None:
        self.submissions.append([block.first_seqs[0] for block in blocks])
        super().submit_steps(blocks)

    @property
    def kinds(self) -> list[type]:
        return [type(command) for command in self.seen]


class Client:
    """The server's end of one Attach stream, with session `name` bound to handle 1."""

    def __init__(self, catalog: FakeCatalog, submissions: Submissions, name: str) -> None:
        self.outbox = Outbox(1 << 20, 1 << 20)
        gate = Gate(WireOptions(), CountingMetrics(), catalog.quotas)
        self.stream = Stream(submissions, self.outbox, gate.metrics, catalog, "t")
        self._conversation = Conversation(self.stream, catalog, WireOptions(), gate)
        self.say(hello=pb.Hello())
        self.say(bind=pb.Bind(handle=1, open=pb.OpenSessionRequest(model="echo", session_id=name)))

    def say(self, **event: Any) -> None:
        self._conversation.take(pb.AttachRequest(**event))

    def step(self, seq: int) -> None:
        self.say(block=pb.Block(handles=[1], first_seqs=[seq], steps=1, inputs=ROW))

    @property
    def outputs(self) -> list[int]:
        said = [reply.outputs for reply in unread(self.outbox) if reply.HasField("outputs")]
        return [result.first_seqs[0] for result in said]

    @property
    def failures(self) -> list[str]:
        said = [reply.failure for reply in unread(self.outbox) if reply.HasField("failure")]
        return [failure.status.message.split(".")[0] for failure in said]


async def turns() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


async def bound(engine: Engine, count: int) -> list[Client]:
    catalog, submissions = FakeCatalog(engine), Submissions(asyncio.get_running_loop())
    clients = [Client(catalog, submissions, f"s{i}") for i in range(count)]
    await turns()
    engine.seen.clear()
    return clients


async def test_blocks_of_many_streams_in_one_turn_are_one_submission() -> None:
    engine = Engine()
    clients = await bound(engine, 3)
    for client in clients:
        client.step(1)
    assert engine.seen == []
    await turns()
    for client in clients:
        client.step(2)
    await turns()
    assert engine.submissions == [[1, 1, 1], [2, 2, 2]]
    assert [client.outputs for client in clients] == [[1, 2]] * 3


async def test_every_other_command_of_a_stream_comes_behind_its_blocks() -> None:
    engine = Engine()
    (client,) = await bound(engine, 1)
    client.step(1)
    client.say(acks=pb.Acks(handles=[1], acks=[0]))
    client.step(2)
    client.say(replay=pb.Replay(handle=1))
    client.step(3)
    client.say(unbind=pb.Unbind(handle=1))
    assert engine.kinds == [StepBlock, Ack, StepBlock, Replay, StepBlock, Unbind]
    await turns()
    assert client.failures == []


async def test_a_close_and_the_end_of_a_stream_come_behind_its_blocks() -> None:
    engine = Engine()
    closing, ending = await bound(engine, 2)
    closing.step(1)
    closing.say(unbind=pb.Unbind(handle=1, close=True))
    ending.step(1)
    ending.stream.close()
    assert engine.kinds == [StepBlock, Close, StepBlock, Unbind]
    await turns()
    assert engine.submissions == [[1], [1]], "nothing is submitted twice"


async def test_a_binding_comes_behind_the_blocks_of_another_handle_of_its_session() -> None:
    engine = Engine()
    (client,) = await bound(engine, 1)
    client.step(1)
    client.say(bind=pb.Bind(handle=2, session_id="s0"))
    assert engine.kinds[0] is StepBlock
    await turns()
    assert client.outputs == [1]


async def test_a_refused_block_fails_alone() -> None:
    engine = Engine()
    first, second = await bound(engine, 2)
    engine.refuse_next(StepBlock, CarouselError("QUEUE_FULL", "full", retry_after_s=0.1))
    first.step(1)
    second.step(1)
    await turns()
    assert (first.failures, second.failures) == (["full"], [])
    assert (first.outputs, second.outputs) == ([], [1])


async def test_a_block_of_two_models_is_refused_once_and_nothing_of_it_is_sent() -> None:
    engine, other = Engine(), Engine(ECHO_TOKENS)
    catalog, submissions = FakeCatalog(engine, other), Submissions(asyncio.get_running_loop())
    client = Client(catalog, submissions, "s0")
    opened = pb.OpenSessionRequest(model="echo-tokens", session_id="s1")
    client.say(bind=pb.Bind(handle=2, open=opened))
    await turns()
    client.say(block=pb.Block(handles=[1, 2, 3], first_seqs=[1, 1, 1], steps=1, inputs=ROW * 3))
    await turns()
    assert client.failures == ["handles: must be sessions of one model"]
    assert engine.submissions == other.submissions == []


async def test_each_engine_gets_its_own_blocks() -> None:
    engines = [Engine(), Engine()]
    submissions = Submissions(asyncio.get_running_loop())
    for seq, engine in enumerate((*engines, *engines), 1):
        block = StepBlock(Sink(), [1], [SessionRef(0, 0)], [seq], 1, ROW)
        submissions.add(engine, block)
    await turns()
    assert [engine.submissions for engine in engines] == [[[1, 3]], [[2, 4]]]


class Sink:
    def __getattr__(self, verb: str) -> Any:
        return lambda *_: None
