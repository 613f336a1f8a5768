"""Blocks that are not parsed, as the native transport hands them over: many streams, one poll."""

from __future__ import annotations

import asyncio
from random import Random

import numpy as np
import pytest
from support.fake_engine import CountingMetrics, FakeCatalog, FakeEngine
from support.native import Sent, poll, turns

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.quotas import Quotas, TenantLimits
from carousel_server.wire import WireOptions, attach
from carousel_server.wire.call import Call
from carousel_server.wire.gate import Gate
from carousel_server.wire.native.call import NativeCall
from carousel_server.wire.native.library import missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "it can be compiled")


class Rig:
    """Streams over a fake engine; `poll` is what came in one poll of the transport."""

    def __init__(self, monkeypatch, *, parsed_all=False, limits=None):
        self.engine = FakeEngine()
        quotas = Quotas(limits) if limits else Quotas()
        options = WireOptions(transport="native", max_message_bytes=4096)
        self.gate = Gate(options, CountingMetrics(), quotas)
        self.door = attach.Attach(FakeCatalog(self.engine, quotas=quotas), options, self.gate)
        self._parse, self.parsed = attach.parse, 0
        if parsed_all:
            self.door._gather = None
        monkeypatch.setattr(attach, "parse", self._count)
        self.orders, self.calls, self.tasks = Sent(pb.AttachResponse), {}, []

    def _count(self, *args):
        self.parsed += 1
        return self._parse(*args)

    async def stream(self, number, handles=1, *, follows=False):
        call = self.calls[number] = NativeCall(self.orders, number, "/x", -1, [b"ipv4:1", b"0"])
        attach.current_call = lambda: Call("", "", "bidi_stream", "", tenant="tenant")
        self.tasks.append(asyncio.ensure_future(self.door.attach(call, call)))
        await turns()
        hello = pb.AttachRequest(hello=pb.Hello(follows_moves=follows))
        binds = (
            pb.AttachRequest(bind=pb.Bind(handle=h, open=pb.OpenSessionRequest(model="echo")))
            for h in range(1, handles + 1)
        )
        for request in (hello, *binds):
            call.message(request.SerializeToString())
            await turns()
        self.orders.sent[number] = []

    async def poll(self, *requests):
        """Pairs of a call's number and a message."""
        await poll(self.calls, self.door._gather, requests)

    def told(self, number):
        return self.orders.sent[number]

    async def end(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def rig(monkeypatch):
    monkeypatch.setattr(attach, "current_call", attach.current_call)
    made = Rig(monkeypatch)
    yield made
    await made.end()


def block(handle, seq, *, steps=1, value=1.0, **fields):
    inputs = np.full((steps, 4), value, np.float32).tobytes()
    asked = {"handles": [handle], "first_seqs": [seq], "steps": steps, "inputs": inputs}
    return pb.AttachRequest(block=pb.Block(**(asked | fields)))


def values(reply):
    return np.frombuffer(reply.outputs.outputs, np.float32)[::4].tolist()


async def test_blocks_of_bound_sessions_are_not_parsed(rig):
    await rig.stream(1)
    parsed = rig.parsed
    for seq in range(1, 5):
        await rig.poll((1, block(1, seq, value=seq, acks=[seq - 1])))
    assert rig.parsed == parsed
    assert [values(reply) for reply in rig.told(1)] == [[1.0], [2.0], [3.0], [4.0]]


async def test_all_streams_of_a_poll_go_in_one_submission(rig, monkeypatch):
    for number in (1, 2, 3):
        await rig.stream(number)
    sizes, submit = [], rig.engine.submit_steps
    monkeypatch.setattr(
        rig.engine, "submit_steps", lambda blocks: (sizes.append(len(blocks)), submit(blocks))
    )
    await rig.poll((1, block(1, 1)), (2, block(1, 1, steps=2)), (3, block(1, 1)))
    assert sizes == [3]


async def test_what_follows_a_message_that_waits_waits_behind_it(monkeypatch):
    monkeypatch.setattr(attach, "current_call", attach.current_call)
    rig = Rig(monkeypatch, limits=TenantLimits(tenant_calls_per_s=5000))
    await rig.stream(1)
    await rig.poll(*((1, block(1, seq, value=seq)) for seq in range(1, 9)))
    async with asyncio.timeout(30):
        while len(rig.told(1)) < 8:  # noqa: ASYNC110 - the quota's clock has no event
            await asyncio.sleep(0.001)
    assert [values(reply) for reply in rig.told(1)] == [[float(n)] for n in range(1, 9)]
    await rig.end()


async def test_a_draining_server_refuses_by_name(rig):
    await rig.stream(1)
    rig.gate.draining = True
    await rig.poll((1, block(1, 1)))
    assert "shutting down" in rig.told(1)[0].failure.status.message


async def test_a_server_that_hands_over_steps_those_that_follow(rig):
    await rig.stream(1, follows=True)
    rig.gate.draining = rig.gate.hands_over = True
    await rig.poll((1, block(1, 1, value=7.0)))
    assert values(rig.told(1)[0]) == [7.0]


def odd(random, handle, seq, value):
    """A message that is not simply the next step."""
    messages = (
        lambda: block(handle, max(1, seq - 1), value=value),
        lambda: block(handle, seq + 5, value=value),
        lambda: block(handle, seq, inputs=bytes(random.randrange(20))),
        lambda: block(handle, seq, dtype=random.choice((1, 2, 3))),
        lambda: block(handle, seq, steps=random.choice((0, 17, 300))),
        lambda: block(handle, seq, timeout={"seconds": 5}),
        lambda: pb.AttachRequest(acks=pb.Acks(handles=[handle], acks=[max(0, seq - 1)])),
        lambda: pb.AttachRequest(replay=pb.Replay(handle=handle)),
        lambda: pb.AttachRequest(unbind=pb.Unbind(handle=handle, close=random.random() < 0.5)),
    )
    return random.choice(messages)()


def script(random):
    """Some polls: what two streams with three sessions each might say, right and wrong."""
    next_seq = {}
    for _ in range(12):
        said = []
        for _ in range(random.randrange(1, 6)):
            stream, handle = random.choice((1, 2)), random.choice((1, 1, 2, 2, 3, 9))
            seq = next_seq.get((stream, handle), 1)
            value, steps = float(random.randrange(100)), random.choice((1, 1, 1, 2))
            if random.random() < 0.3:
                said.append((stream, odd(random, handle, seq, value)))
            else:
                said.append((stream, block(handle, seq, steps=steps, value=value, acks=[seq - 1])))
                next_seq[stream, handle] = seq + steps
        yield said


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_streams_say_they_are_told_the_same_as_if_all_was_parsed(monkeypatch, seed):
    monkeypatch.setattr(attach, "current_call", attach.current_call)
    told = []
    for parsed_all in (False, True):
        rig = Rig(monkeypatch, parsed_all=parsed_all)
        for number in (1, 2):
            await rig.stream(number, handles=3)
        for said in script(Random(seed)):
            await rig.poll(*said)
        told.append(
            {number: list(map(str, replies)) for number, replies in rig.orders.sent.items()}
        )
        await rig.end()
    assert told[0] == told[1]
    assert any("outputs" in reply for reply in told[0][1] + told[0][2])
