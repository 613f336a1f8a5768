"""Requests that are not parsed, as the native transport hands them over: many calls, one poll."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from support.fake_engine import CountingMetrics, FakeCatalog, FakeEngine
from support.native import Sent, poll, turns
from support.triton import outputs, request

from carousel_protos.triton import inference_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.core.quotas import Quotas, TenantLimits
from carousel_server.wire import WireOptions
from carousel_server.wire.call import Call
from carousel_server.wire.gate import Gate
from carousel_server.wire.native.call import NativeCall
from carousel_server.wire.native.library import missing
from carousel_server.wire.native.readers import MOST_FORMS
from carousel_server.wire.triton import infer
from carousel_server.wire.triton.infer import Inference
from carousel_server.wire.triton.models import ServedModels

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "it can be compiled")


class Rig:
    """Streams of one door over a fake engine; `poll` is what came in one poll of the transport."""

    def __init__(self, monkeypatch, limits=None):
        self.engine = FakeEngine()
        quotas = Quotas(limits) if limits else Quotas()
        options = WireOptions(transport="native", max_message_bytes=4096)
        self.catalog = FakeCatalog(self.engine, quotas=quotas)
        self.gate = Gate(options, CountingMetrics(), quotas)
        self.door = Inference(ServedModels(self.catalog), options, self.gate)
        self.orders, self.calls, self.tasks, self.parsed = (
            Sent(pb.ModelStreamInferResponse),
            {},
            [],
            0,
        )
        monkeypatch.setattr(infer, "parse", partial(self._parse, infer.parse))

    def _parse(self, parse, *args):
        self.parsed += 1
        return parse(*args)

    async def stream(self, number, tenant="tenant"):
        call = NativeCall(self.orders, number, "/x", -1, [b"ipv4:1", b"0"])
        infer.current_call = lambda: Call("", "", "bidi_stream", "", tenant=tenant)
        self.tasks.append(asyncio.ensure_future(self.door.stream(call, call)))
        self.calls[number] = call
        await turns()

    async def poll(self, *requests):
        """Pairs of a call's number and a message."""
        await poll(self.calls, self.door._plain.gather, requests)

    def told(self, number):
        """Outputs of the replies of a stream, or the text of an error, in order."""
        return [
            reply.error_message or outputs(reply.infer_response)["y"][0].tolist()
            for reply in self.orders.sent.get(number, [])
        ]


@pytest.fixture
async def rig(monkeypatch):
    monkeypatch.setattr(infer, "current_call", infer.current_call)
    made = Rig(monkeypatch)
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


def step(value, sequence=1, **options):
    return request("echo", [value] * 4, sequence, **options)


async def test_steps_of_a_running_sequence_are_not_parsed(rig):
    await rig.stream(1)
    await rig.poll((1, step(1.0, start=True, id="a")))
    assert rig.parsed == 1
    for n in range(2, 6):
        await rig.poll((1, step(float(n), id=f"r{n}")))
    assert rig.parsed == 1
    assert rig.told(1) == [[float(n)] * 4 for n in range(1, 6)]
    ids = [reply.infer_response.id for reply in rig.orders.sent[1]]
    assert ids == ["a", "r2", "r3", "r4", "r5"]


async def test_all_streams_of_a_poll_go_as_one_block(rig):
    for number in (1, 2, 3):
        await rig.stream(number)
        await rig.poll((number, step(0.0, number, start=True)))
    rig.engine.seen.clear()
    await rig.poll(*((n, step(float(n), n)) for n in (1, 2, 3)))
    assert [len(block.refs) for block in rig.engine.seen] == [3]
    assert [rig.told(n)[-1] for n in (1, 2, 3)] == [[1.0] * 4, [2.0] * 4, [3.0] * 4]


async def test_what_follows_a_parsed_request_of_its_sequence_waits_behind_it(rig):
    await rig.stream(1)
    await rig.poll(
        (1, step(1.0, start=True)), (1, step(2.0)), (1, step(3.0)), (1, step(4.0, end=True))
    )
    assert rig.told(1) == [[float(n)] * 4 for n in range(1, 5)]


async def test_replies_of_two_sequences_on_a_stream_keep_the_order_of_the_requests(rig):
    await rig.stream(1)
    await rig.poll((1, step(1.0, 1, start=True)), (1, step(1.5, 2, start=True)))
    rig.engine.hold()
    await rig.poll((1, step(2.0, 1)), (1, step(2.5, 2)), (1, step(3.0, 1)))
    rig.engine.release()
    await turns()
    assert rig.told(1) == [[v] * 4 for v in (1.0, 1.5, 2.0, 2.5, 3.0)]


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (request("echo", [1.0] * 3, 1), "Expected [-1,4], got [1,3]"),
        (request("nobody", [1.0] * 4, 1), "unknown model"),
        (step(1.0, 99), "must specify the START flag"),
        (step(1.0, 0), "non-zero or non-empty correlation ID"),
    ],
)
async def test_a_wrong_request_among_plain_ones_is_told_of_and_harms_none(rig, bad, text):
    await rig.stream(1)
    await rig.stream(2)
    await rig.poll((1, step(1.0, start=True)), (2, step(1.0, 2, start=True)))
    await rig.poll((2, step(2.0, 2)), (1, bad), (1, step(2.0)))
    assert rig.told(2) == [[1.0] * 4, [2.0] * 4]
    assert text in rig.told(1)[1]
    assert rig.told(1)[2] == [2.0] * 4


async def test_a_row_of_another_size_in_a_known_form_is_refused_by_name(rig):
    await rig.stream(1)
    await rig.poll((1, step(1.0, start=True)))
    short = step(2.0)
    short.raw_input_contents[0] = bytes(12)
    await rig.poll((1, short), (1, step(3.0)))
    assert "Expected 16, got 12" in rig.told(1)[1]
    assert rig.told(1)[2] == [3.0] * 4


async def test_a_refused_step_names_its_request_and_its_sequence(rig):
    await rig.stream(1)
    await rig.poll((1, step(1.0, 7, start=True)))
    rig.engine.step_error = CarouselError("STEP_FAILED", "the device says no", seq=2)
    await rig.poll((1, step(2.0, 7, id="second")))
    assert "[request id: second]" in rig.told(1)[1]
    assert "sequence 7, step 2" in rig.told(1)[1]


async def test_sequences_of_tenants_are_apart(rig):
    await rig.stream(1, "anna")
    await rig.stream(2, "otto")
    await rig.poll((1, step(1.0, start=True)))
    await rig.poll((2, step(2.0)))
    assert "must specify the START flag" in rig.told(2)[0]


async def test_a_stream_whose_replies_are_not_read_is_not_read_from(rig):
    await rig.stream(1)
    await rig.poll((1, step(1.0, start=True)))
    rig.engine.hold()
    await rig.poll(*((1, step(float(n))) for n in range(2, 60)))
    assert rig.calls[1].gather is None, "more bytes wait than one message may have"
    await rig.poll((1, step(60.0)))
    rig.engine.release()
    for _ in range(60):
        await turns()
        rig.engine.release()
    assert rig.told(1) == [[float(n)] * 4 for n in range(1, 61)]
    assert rig.calls[1].gather is not None


async def test_requests_that_a_tenants_quota_counts_are_parsed_and_wait_their_turn(monkeypatch):
    monkeypatch.setattr(infer, "current_call", infer.current_call)
    rig = Rig(monkeypatch, TenantLimits(tenant_calls_per_s=1000))
    await rig.stream(1)
    await rig.poll((1, step(1.0, start=True)))
    await rig.poll((1, step(2.0)))
    async with asyncio.timeout(30):
        while len(rig.told(1)) < 2:  # noqa: ASYNC110 - the quota's clock has no event
            await asyncio.sleep(0.001)
    assert rig.parsed == 2
    for task in rig.tasks:
        task.cancel()
    await asyncio.gather(*rig.tasks, return_exceptions=True)


async def test_a_draining_server_refuses_by_name(rig):
    await rig.stream(1)
    await rig.poll((1, step(1.0, start=True)))
    rig.gate.draining = True
    await rig.poll((1, step(2.0)))
    assert "shutting down" in rig.told(1)[1]


async def test_clients_with_ever_new_forms_take_the_quick_way_from_nobody(rig):
    await rig.stream(1)
    await rig.stream(2)
    await rig.poll((1, step(0.0, 1, start=True)), (2, step(0.0, 2, start=True)))
    for n in range(1, MOST_FORMS + 20):
        await rig.poll((1, step(float(n), 1, unknown=n)))
    await rig.poll((2, step(1.0, 2)))
    parsed = rig.parsed
    for n in range(2, 6):
        await rig.poll((2, step(float(n), 2)))
    assert rig.parsed == parsed
    assert rig.told(2) == [[float(n)] * 4 for n in range(6)]
    assert len(rig.told(1)) == MOST_FORMS + 20


async def test_a_form_that_is_forgotten_in_the_middle_of_a_poll_is_parsed(rig):
    await rig.stream(1)
    await rig.poll((1, step(0.0, 1, start=True)), (1, step(0.0, 2, start=True)))
    for n in range(1, MOST_FORMS):
        await rig.poll((1, step(float(n), 1, unknown=n)))
    await rig.poll((1, step(0.0, 1, unknown=-1)), (1, step(7.0, 2)))
    assert rig.told(1)[-1] == [7.0] * 4


async def test_a_defect_ends_its_own_call_and_no_other(rig, monkeypatch):
    await rig.stream(1)
    await rig.stream(2)
    await rig.poll((1, step(0.0, 1, start=True)), (2, step(0.0, 2, start=True)))
    running = rig.door._plain._step

    def broken(owner, data, row, *rest):
        if row[1] == 1:
            raise ZeroDivisionError
        return running(owner, data, row, *rest)

    monkeypatch.setattr(rig.door._plain, "_step", broken)
    await rig.poll((1, step(1.0, 1)), (2, step(1.0, 2)))
    assert rig.told(2)[-1] == [1.0] * 4
    with pytest.raises(ZeroDivisionError):
        await rig.tasks[0]
