"""A sequence is a session: opened or reset by START, stepped in order, closed by END."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from support.fake_engine import WIDTH
from support.wire import refused, settled

from carousel_server.core import ports
from carousel_server.core.errors import CarouselError
from carousel_server.core.types import OpenSpec
from carousel_server.wire.auth import DEFAULT_TENANT

ROW = np.arange(WIDTH, dtype="<f4")


def rows(count):
    return [ROW + n for n in range(count)]


def count(engine, kind):
    return sum(isinstance(command, kind) for command in engine.seen)


def blocks(engine):
    return [command for command in engine.seen if isinstance(command, ports.StepBlock)]


@pytest.mark.parametrize("sequence", [7, 2**63 - 1, -1, "room 4, left", "x" * 128, "a.b_c-d"])
async def test_a_sequence_from_start_to_end(wire, fake, sequence):
    for n, row in enumerate(rows(3)):
        found = await fake.infer("echo", row, sequence, start=n == 0, end=n == 2)
        np.testing.assert_array_equal(found["y"], row[None])
    await settled(lambda: not wire.engine.sessions)


async def test_its_session_can_be_named(wire, fake):
    await fake.infer("echo", ROW, 7, start=True)
    await fake.infer("echo", ROW, "seven", start=True)
    assert wire.engine.bound == ["triton:echo:7", "triton:echo:s:seven"]
    assert (await wire.stubs.open("echo", "7")).id == "7"  # another session altogether


async def test_all_steps_of_a_sequence_are_numbered_without_gaps(wire, fake):
    for n, row in enumerate(rows(4)):
        await fake.infer("echo", row, 7, start=n == 0)
    assert [block.first_seqs for block in blocks(wire.engine)] == [[1], [2], [3], [4]]
    assert [block.acks for block in blocks(wire.engine)] == [[0], [1], [2], [3]]
    assert count(wire.engine, ports.Bind) == 1


@pytest.mark.parametrize("sequence", [9, "nine"])
async def test_a_request_without_start_is_told_so_in_tritons_words(fake, sequence):
    error = await refused(fake.infer("echo", ROW, sequence))
    assert error.reason == "SEQUENCE_NOT_STARTED"
    assert error.message.startswith(
        f"inference request for sequence {sequence} to model 'echo' must specify the START flag on "
        "the first request of the sequence"
    )


async def test_after_its_end_a_sequence_must_be_started_again(fake):
    await fake.infer("echo", ROW, 7, start=True, end=True)
    assert (await refused(fake.infer("echo", ROW, 7))).reason == "SEQUENCE_NOT_STARTED"
    await fake.infer("echo", ROW, 7, start=True)


@pytest.mark.parametrize("sequence", [0, ""])
async def test_a_request_without_a_sequence_is_told_so(fake, sequence):
    error = await refused(fake.infer("echo", ROW, sequence_id=sequence))
    assert error.message.startswith(
        "inference request to model 'echo' must specify a non-zero or non-empty correlation ID"
    )


async def test_start_on_a_running_sequence_resets_its_session(wire, fake):
    for start in (True, False, True, False):
        await fake.infer("echo", ROW, 7, start=start)
    assert wire.engine.session("triton:echo:7").applied == 4
    assert [(b.first_seqs, b.resets) for b in blocks(wire.engine)] == [
        ([1], b""),
        ([2], b""),
        ([3], b"\1"),
        ([4], b""),
    ]
    assert (count(wire.engine, ports.Open), count(wire.engine, ports.Close)) == (1, 0)


async def test_starts_of_several_sequences_go_in_one_block(wire, fake):
    stream = fake.stream()
    for sequence in (7, 8, 9):
        await stream.say("echo", ROW, sequence, start=True)
        await stream.output()
    wire.engine.hold()
    for sequence in (7, 8, 9):
        await stream.say("echo", ROW, sequence, start=sequence != 8)
    await settled(lambda: sum(len(block.refs) for block in blocks(wire.engine)) == 6)
    wire.engine.release()
    for _ in range(3):
        await stream.output()
    found = {}
    for block in blocks(wire.engine)[3:]:
        found |= dict(zip(block.refs, block.resets or bytes(len(block.refs)), strict=True))
    ids = [wire.engine.sessions[ref].spec.session_id for ref in found]
    assert dict(zip(ids, found.values(), strict=True)) == {
        "triton:echo:7": 1,
        "triton:echo:8": 0,
        "triton:echo:9": 1,
    }


async def test_a_refused_start_on_a_running_sequence_ends_it(wire, fake):
    await fake.infer("echo", ROW, 7, start=True)
    wire.engine.step_error = CarouselError("INPUT_NOT_FINITE", "NaN")
    assert (await refused(fake.infer("echo", ROW, 7, start=True))).reason == "INPUT_NOT_FINITE"
    wire.engine.step_error = None
    assert (await refused(fake.infer("echo", ROW, 7))).reason == "SEQUENCE_NOT_STARTED"
    assert not wire.engine.sessions


async def test_start_after_a_stream_of_carousel_took_the_session(wire, fake):
    await fake.infer("echo", ROW, 7, start=True)
    stream = await wire.stubs.attach()
    await stream.bind(1, session_id="triton:echo:7")
    await stream.step(1, 2, ROW[None])
    await fake.infer("echo", ROW, 7, start=True)
    assert (await stream.hear("unbound")).unbound.handle == 1
    assert blocks(wire.engine)[-1].first_seqs == [3]
    assert blocks(wire.engine)[-1].resets == b"\1"


async def test_two_tenants_may_use_the_same_sequence_id_and_two_models_too(wire, fake):
    await fake.infer("echo", ROW, 7, start=True)
    await fake.infer("echo-tokens", [3], 7, start=True, name="token", datatype="INT32", dtype="<i4")
    assert wire.tokens.bound == ["triton:echo-tokens:7"]
    assert wire.engine.session("triton:echo:7").applied == 1


async def test_an_expired_sequence_says_that_it_expired(wire, fake):
    await fake.infer("echo", ROW, 7, start=True)
    wire.engine.hold()
    waiting = asyncio.ensure_future(refused(fake.infer("echo", ROW, 7)))
    await settled(lambda: len(blocks(wire.engine)) == 2)
    wire.engine.expire("triton:echo:7")
    assert (await waiting).reason == "SESSION_EXPIRED"


async def test_a_sequence_outlives_its_stream(wire, fake):
    stream = fake.stream()
    await stream.say("echo", ROW, 7, start=True)
    await stream.output()
    stream.call.cancel()
    # As CANCELLED or OK: gRPC may tell the server first that no request will come.
    await settled(lambda: wire.metrics.ended)
    await fake.infer("echo", ROW, 7, end=True)
    assert [block.first_seqs for block in blocks(wire.engine)] == [[1], [2]]


async def test_a_cancelled_call_has_run_and_the_sequence_goes_on(wire, fake):
    await fake.infer("echo", ROW, 7, start=True)
    wire.engine.hold()
    call = asyncio.ensure_future(fake.infer("echo", ROW, 7))
    await settled(lambda: len(blocks(wire.engine)) == 2)
    call.cancel()
    await settled(lambda: ("ModelInfer", "unary", "CANCELLED") in wire.metrics.ended)
    wire.engine.release()
    await fake.infer("echo", ROW, 7)
    assert wire.engine.session("triton:echo:7").applied == 3


async def test_a_stream_of_carousel_may_take_the_session_and_the_door_takes_it_back(wire, fake):
    await fake.infer("echo", ROW, 7, start=True)
    stream = await wire.stubs.attach()
    await stream.bind(1, session_id="triton:echo:7")
    await stream.step(1, 2, ROW[None])
    await fake.infer("echo", ROW, 7)
    assert (await stream.hear("unbound")).unbound.handle == 1
    assert wire.engine.session("triton:echo:7").applied == 3


# -- refusals


async def test_a_refused_step_leaves_the_sequence_as_it_was(wire, fake):
    await fake.infer("echo", ROW, 7, start=True)
    wire.engine.step_error = CarouselError("INPUT_NOT_FINITE", "NaN")
    assert (await refused(fake.infer("echo", ROW, 7))).reason == "INPUT_NOT_FINITE"
    wire.engine.step_error = None
    await fake.infer("echo", ROW, 7)
    assert [block.first_seqs for block in blocks(wire.engine)] == [[1], [2], [2]]


async def test_after_a_refused_start_nothing_runs_on_a_zero_state(wire, fake):
    wire.engine.step_error = CarouselError("INPUT_NOT_FINITE", "NaN")
    assert (await refused(fake.infer("echo", ROW, 7, start=True))).metadata["step"] == "1"
    wire.engine.step_error = None
    assert (await refused(fake.infer("echo", ROW, 7))).reason == "SEQUENCE_NOT_STARTED"
    assert not wire.engine.sessions


async def test_a_full_server_refuses_at_the_door_with_a_reason(wire, fake):
    full = CarouselError("SLAB_FULL", "all slots are taken", retry_after_s=0.5)
    wire.engine.refusal = full
    error = await refused(fake.infer("echo", ROW, 7, start=True))
    assert (error.reason, error.retry.retry_delay.nanos) == ("SLAB_FULL", 500_000_000)
    wire.engine.refusal = None
    await fake.infer("echo", ROW, 7, start=True)


async def test_an_engine_that_takes_nothing_costs_no_step(wire, fake):
    await fake.infer("echo", ROW, 7, start=True)
    wire.engine.refusal = CarouselError("QUEUE_FULL", "busy", retry_after_s=0.1)
    assert (await refused(fake.infer("echo", ROW, 7))).reason == "QUEUE_FULL"
    wire.engine.refusal = None
    await fake.infer("echo", ROW, 7)
    assert wire.engine.session("triton:echo:7").applied == 2


async def test_a_timeout_that_has_passed_is_a_deadline_and_the_sequence_goes_on(wire, fake):
    await fake.infer("echo", ROW, 7, start=True)
    assert (await refused(fake.infer("echo", ROW, 7, timeout=1))).reason == "DEADLINE_EXCEEDED"
    await fake.infer("echo", ROW, 7, timeout=60_000_000)
    assert wire.engine.session("triton:echo:7").applied == 2


async def test_who_asks_for_durability_gets_it_at_the_start(wire, fake):
    await fake.infer("echo", ROW, 7, start=True, durability="sync")
    assert wire.engine.session("triton:echo:7").spec.durability.name == "SYNC"
    error = await refused(fake.infer("echo", ROW, 8, start=True, durability="forever"))
    assert error.reason == "FIELD_INVALID"


async def test_a_start_chooses_an_initial_state(wire, fake):
    await fake.infer("echo", ROW, 7, start=True, initial="anna")
    assert wire.engine.session("triton:echo:7").spec.initial == "anna"
    await fake.infer("echo", ROW, 7)
    assert wire.engine.session("triton:echo:7").applied == 2
    error = await refused(fake.infer("echo", ROW, 8, start=True, initial="eve"))
    assert (error.reason, error.metadata["known"]) == ("INITIAL_UNKNOWN", "anna,otto")
    error = await refused(fake.infer("echo", ROW, 8, start=True, initial=3))
    assert error.reason == "FIELD_INVALID"
    assert len(wire.engine.sessions) == 1


async def test_a_start_with_another_initial_state_replaces_the_session(wire, fake):
    for initial in ("anna", "otto", ""):
        await fake.infer("echo", ROW, 7, start=True, initial=initial)
        session = wire.engine.session("triton:echo:7")
        assert (session.spec.initial, session.applied) == (initial, 1)
        assert len(wire.engine.sessions) == 1


async def test_a_start_of_the_default_does_not_reset_to_a_state_that_was_chosen(wire, fake):
    """The session is there from another process, and this door has not bound it."""
    spec = OpenSpec(DEFAULT_TENANT, "triton:echo:7", initial="anna")
    wire.engine.submit(ports.Open(spec))
    wire.engine.session("triton:echo:7").applied = 3
    plain = wire.engine._open

    def as_an_engine_does(command):
        found = list(wire.engine.sessions.values())
        return (found[0].ref, wire.engine._view(found[0])) if found else plain(command)

    wire.engine._open = as_an_engine_does
    await fake.infer("echo", ROW, 7, start=True)
    session = wire.engine.session("triton:echo:7")
    assert (session.spec.initial, session.applied) == ("", 1)


async def test_a_draining_server_is_not_ready_and_takes_nothing_new(wire, fake):
    await fake.infer("echo", ROW, 7, start=True)
    assert (await fake.ask("ServerReady")).ready
    await wire.server.drain(5.0)
    assert not (await fake.ask("ServerReady")).ready
    assert (await fake.ask("ServerLive")).live
    assert (await refused(fake.infer("echo", ROW, 7))).reason == "DRAINING"


# -- what may happen between the opening of a session and its binding


def failing(engine, verb, *errors):
    """Lets the next calls of a verb fail; each error once."""
    plain, left = getattr(engine, verb), list(errors)

    def run(command):
        if left:
            raise left.pop(0)
        return plain(command)

    setattr(engine, verb, run)


async def test_a_start_that_meets_a_session_of_another_durability_replaces_it(wire, fake):
    await fake.infer("echo", ROW, 7, start=True)
    await fake.infer("echo", ROW, 7, start=True, durability="none")
    session = wire.engine.session("triton:echo:7")
    assert (session.spec.durability.name, session.applied) == ("NONE", 1)
    assert len(wire.engine.sessions) == 1


async def test_a_session_parked_before_it_is_bound_is_fetched_again(wire, fake):
    parked = CarouselError("SESSION_PARKED", "just left")
    failing(wire.engine, "_bind", parked, parked)
    await fake.infer("echo", ROW, 7, start=True)
    failing(wire.engine, "_bind", *[parked] * 9)
    error = await refused(fake.infer("echo", ROW, 8, start=True))
    assert error.reason == "SESSION_PARKED"


async def test_a_parked_sequence_is_bound_again_where_it_stood(wire, fake):
    await fake.infer("echo", ROW, 7, start=True)
    session = wire.engine.session("triton:echo:7")
    session.sink.away(session.tag, wire.engine._view(session))
    session.sink = None
    await fake.infer("echo", ROW, 7)
    assert [block.first_seqs for block in blocks(wire.engine)] == [[1], [2]]
    assert count(wire.engine, ports.Bind) == 2


async def test_a_sequence_whose_id_others_keep_taking_is_refused(wire, fake):
    await fake.infer("echo", ROW, 7, start=True)
    wire.engine._close = lambda command: wire.engine._view(wire.engine._find(command.ref))
    error = await refused(fake.infer("echo", ROW, 7, start=True, durability="none"))
    assert error.reason == "SESSION_EXISTS"
