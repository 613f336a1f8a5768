"""Step, Infer and Generate: waiting for engines, and giving up."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import grpc
import numpy as np
import pytest
from support.fake_engine import WIDTH
from support.wire import refused, settled

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core import ports
from carousel_server.core.errors import CarouselError

ROW = np.arange(WIDTH, dtype="<f4")


def step(session, seq, rows=ROW, **fields):
    return pb.StepRequest(session_id=session.id, first_seq=seq, inputs=rows.tobytes(), **fields)


def count(engine, kind):
    return sum(isinstance(command, kind) for command in engine.seen)


# -- Step


async def test_a_session_is_bound_once_for_all_its_calls(wire):
    session = await wire.stubs.open("echo")
    for seq in (1, 2, 3):
        reply = await wire.stubs.inference.Step(step(session, seq, ack=seq - 1))
        assert (reply.first_seq, reply.outputs) == (seq, ROW.tobytes())
    assert count(wire.engine, ports.Bind) == 1


async def test_several_steps_in_one_call(wire):
    session = await wire.stubs.open("echo")
    rows = np.arange(5 * WIDTH, dtype="<f4")
    assert (await wire.stubs.inference.Step(step(session, 1, rows))).outputs == rows.tobytes()


async def test_outputs_may_come_in_parts_and_twice(wire):
    session = await wire.stubs.open("echo")
    await wire.stubs.inference.Step(step(session, 1))
    wire.engine.hold()
    rows = np.arange(3 * WIDTH, dtype="<f4")
    call = asyncio.ensure_future(wire.stubs.inference.Step(step(session, 2, rows)))
    await settled(lambda: count(wire.engine, ports.StepBlock) == 2)
    fake = wire.engine.session(session.id)
    parts = np.frombuffer(rows.tobytes(), np.uint8).reshape(3, -1)

    def send(first, last):
        part = parts[first - 2 : last - 1].reshape(1, -1)
        fake.sink.outputs(np.array([fake.tag]), np.array([first]), last - first + 1, part)

    send(3, 4)
    send(3, 3)
    send(2, 3)
    assert (await call).outputs == rows.tobytes()


async def test_calls_of_one_session_take_turns(wire):
    session = await wire.stubs.open("echo")
    wire.engine.hold()
    calls = [asyncio.ensure_future(wire.stubs.inference.Step(step(session, 1))) for _ in range(3)]
    await settled(lambda: count(wire.engine, ports.Bind) == 1)
    wire.engine.release()
    assert {(await call).outputs for call in calls} == {ROW.tobytes()}


async def test_a_stream_takes_the_session_and_a_call_takes_it_back(wire):
    session = await wire.stubs.open("echo")
    await wire.stubs.inference.Step(step(session, 1))
    stream = await wire.stubs.attach()
    await stream.bind(1, session_id=session.id)
    await stream.step(1, 2, ROW[None])
    await wire.stubs.inference.Step(step(session, 3))
    assert (await stream.hear("unbound")).unbound.handle == 1


async def test_a_waiting_call_hears_that_its_session_has_left(wire):
    session = await wire.stubs.open("echo")
    await wire.stubs.inference.Step(step(session, 1))
    wire.engine.hold()
    waiting = asyncio.ensure_future(refused(wire.stubs.inference.Step(step(session, 2))))
    await settled(lambda: count(wire.engine, ports.StepBlock) == 2)
    wire.engine.expire(session.id)
    assert (await waiting).reason == "SESSION_EXPIRED"


async def test_the_callers_deadline_goes_to_the_engine(wire):
    session = await wire.stubs.open("echo")
    await wire.stubs.inference.Step(step(session, 1))
    await wire.stubs.inference.Step(step(session, 2), timeout=30)
    without, with_timeout = (c for c in wire.engine.seen if isinstance(c, ports.StepBlock))
    assert without.deadline_s == float("inf")
    assert with_timeout.deadline_s < float("inf")


async def test_giving_up_frees_the_turn_and_the_step_can_be_asked_for_again(wire):
    session = await wire.stubs.open("echo")
    await wire.stubs.inference.Step(step(session, 1))
    wire.engine.hold()
    call = wire.stubs.inference.Step(step(session, 2))
    await settled(lambda: count(wire.engine, ports.StepBlock) == 2)
    call.cancel()
    await settled(lambda: ("Step", "unary", "CANCELLED") in wire.metrics.ended)
    wire.engine.release()
    assert (await wire.stubs.inference.Step(step(session, 2))).outputs == ROW.tobytes()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"first_seq": 0}, "first_seq"),
        ({"first_seq": 2**64 - 1}, "first_seq"),
        ({"ack": 2**63}, "ack"),
        ({"inputs": b""}, "inputs"),
        ({"inputs": b"\0" * 16 * 17}, "inputs"),
        ({"inputs": b"\0" * 15}, "inputs"),
        ({"dtype": 9}, "dtype"),
        ({"session_id": ""}, "session_id"),
        ({"session_id": "a" * 129}, "session_id"),
    ],
)
async def test_bad_fields_of_a_step_are_named(wire, fields, field):
    session = await wire.stubs.open("echo")
    request = step(session, 1)
    request.MergeFrom(pb.StepRequest(**fields))
    for name, value in fields.items():
        setattr(request, name, value)
    error = await refused(wire.stubs.inference.Step(request))
    assert error.bad_request.field_violations[0].field == field
    assert count(wire.engine, ports.StepBlock) == 0


# -- Infer


async def test_infer_of_rows_and_of_text(wire):
    infer = wire.stubs.inference.Infer
    reply = await infer(pb.InferRequest(model="echo", inputs=ROW.tobytes() * 2))
    assert (reply.steps, reply.outputs) == (2, ROW.tobytes() * 2)
    reply = await infer(pb.InferRequest(model="echo-tokens", text="ab"))
    assert reply.outputs == np.array([97, 98], "<i4").tobytes()


async def test_an_abandoned_sequence_is_withdrawn(wire):
    wire.engine.hold()
    call = wire.stubs.inference.Infer(pb.InferRequest(model="echo", inputs=ROW.tobytes()))
    await settled(lambda: count(wire.engine, ports.Infer) == 1)
    call.cancel()
    await settled(lambda: wire.engine.seen[-1].reply.cancelled())


@pytest.mark.unlinked
async def test_a_reply_too_large_for_a_message_is_refused_before_it_runs(start_wire):
    wire = await start_wire(max_message_bytes=4096)
    wire.tokens.model = replace(wire.tokens.model, max_sequence_steps=10_000)
    request = pb.InferRequest(model="echo-tokens", text="a" * 2000)
    error = await refused(wire.stubs.inference.Infer(request))
    assert error.reason == "MESSAGE_TOO_LARGE"
    assert not wire.tokens.seen


async def test_infer_needs_an_input(wire):
    error = await refused(wire.stubs.inference.Infer(pb.InferRequest(model="echo")))
    assert error.bad_request.field_violations[0].field == "input"


# -- Generate


async def collect(call):
    messages = [message async for message in call]
    return messages, "".join(token.text for m in messages for token in m.tokens)


def generation(**fields):
    return pb.GenerateRequest(**{"model": "echo-tokens", "text": "x", "max_tokens": 5, **fields})


async def test_generation_in_a_session_of_its_own(wire):
    messages, text = await collect(wire.stubs.inference.Generate(generation()))
    assert text == "abcde!"
    assert sum(len(message.tokens) for message in messages) == 5
    last = messages[-1]
    assert last.finish_reason == pb.FINISH_REASON_LENGTH
    assert (last.usage.prompt_tokens, last.usage.generated_tokens) == (1, 5)
    assert all(not m.HasField("usage") for m in messages[:-1])
    await settled(lambda: not wire.tokens.sessions)


async def test_generation_in_a_given_session(wire):
    session = await wire.stubs.open("echo-tokens")
    request = generation(session_id=session.id, first_seq=3)
    request.ClearField("model")
    request.session_id = session.id
    await collect(wire.stubs.inference.Generate(request))
    command = wire.tokens.seen[-1]
    assert (command.spec.first_seq, command.close_after) == (3, False)
    assert len(wire.tokens.sessions) == 1


async def test_a_slow_client_finds_several_tokens_in_one_message(wire):
    messages, text = await collect(wire.stubs.inference.Generate(generation(max_tokens=2000)))
    assert len(text) == 2001
    assert len(messages) < 2000
    assert max(len(message.tokens) for message in messages) <= 256


async def test_tokens_come_before_the_generation_ends(wire):
    wire.tokens.tokens_before_pause = 2
    call = wire.stubs.inference.Generate(generation())
    first = await call.read()
    assert first.tokens[0].text == "a"
    wire.tokens.release()
    rest = ""
    while (message := await call.read()) is not grpc.aio.EOF:
        rest += "".join(token.text for token in message.tokens)
    assert rest.endswith("de!")


async def test_giving_up_ends_the_generation(wire):
    wire.tokens.tokens_before_pause = 1
    call = wire.stubs.inference.Generate(generation())
    await call.read()
    call.cancel()
    await settled(lambda: count(wire.tokens, ports.CancelGenerate) == 1)
    await settled(lambda: ("Generate", "server_stream", "CANCELLED") in wire.metrics.ended)


async def test_giving_up_while_the_session_opens_closes_it(wire):
    wire.tokens.hold()
    call = wire.stubs.inference.Generate(generation())
    await settled(lambda: count(wire.tokens, ports.Open) == 1)
    call.cancel()
    await settled(lambda: ("Generate", "server_stream", "CANCELLED") in wire.metrics.ended)
    wire.tokens.release()
    await settled(lambda: count(wire.tokens, ports.Close) == 1)
    assert not wire.tokens.sessions


async def test_a_refused_generation_closes_its_session(wire):
    def refuse(command):
        if isinstance(command, ports.Generate):
            raise CarouselError("QUEUE_FULL", "no room", retry_after_s=0.1)
        submit(command)

    submit, wire.tokens.submit = wire.tokens.submit, refuse
    error = await refused(collect(wire.stubs.inference.Generate(generation())))
    assert error.reason == "QUEUE_FULL"
    assert not wire.tokens.sessions


async def test_sampling_reaches_the_engine(wire):
    sampling = pb.Sampling(temperature=0, top_k=5, top_p=0.5, repetition_penalty=1.5, seed=7)
    request = generation(sampling=sampling, stop=["\n"], stop_tokens=[0], logprobs=2)
    await collect(wire.stubs.inference.Generate(request))
    spec = next(c for c in wire.tokens.seen if isinstance(c, ports.Generate)).spec
    assert spec.prompt.tolist() == [ord("x")]
    assert (spec.sampling.temperature, spec.sampling.top_k, spec.sampling.seed) == (0.0, 5, 7)
    assert (spec.sampling.top_p, spec.sampling.repetition_penalty) == (0.5, 1.5)
    assert (spec.stop, spec.stop_tokens, spec.logprobs) == (("\n",), (0,), 2)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 65_537}, "max_tokens"),
        ({"first_seq": 2**63}, "first_seq"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop_tokens": [-1]}, "stop_tokens"),
        ({"logprobs": 33}, "logprobs"),
        ({"text": ""}, "input"),
        ({"text": "a" * 65}, "input"),
        ({"tokens": pb.Tokens(ids=[256])}, "tokens"),
        ({"tokens": pb.Tokens(ids=[-1])}, "tokens"),
        ({"model": ""}, "model"),
        ({"sampling": pb.Sampling(temperature=float("nan"))}, "sampling.temperature"),
        ({"sampling": pb.Sampling(temperature=-1)}, "sampling.temperature"),
        ({"sampling": pb.Sampling(top_p=0)}, "sampling.top_p"),
        ({"sampling": pb.Sampling(top_p=float("nan"))}, "sampling.top_p"),
        ({"sampling": pb.Sampling(top_k=2**32 - 1)}, "sampling.top_k"),
        ({"sampling": pb.Sampling(repetition_penalty=0)}, "sampling.repetition_penalty"),
    ],
)
async def test_bad_fields_of_a_generation_are_named(wire, fields, field):
    request = generation(**({"text": None} if "tokens" in fields else {}) | fields)
    error = await refused(collect(wire.stubs.inference.Generate(request)))
    assert error.bad_request.field_violations[0].field == field
    assert not wire.tokens.seen


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("temperature", 101, "from 0 to 100, but is 101"),
        ("top_p", 2, "above 0 and at most 1, but is 2"),
        ("repetition_penalty", 1e30, "above 0 and at most 100, but is 1e+30"),
        ("repetition_penalty", float("inf"), "above 0 and at most 100, but is inf"),
        ("repetition_penalty", -1, "above 0 and at most 100, but is -1"),
    ],
)
async def test_a_range_is_told_with_both_its_ends(wire, field, value, said):
    request = generation(sampling=pb.Sampling(**{field: value}))
    error = await refused(collect(wire.stubs.inference.Generate(request)))
    assert said in str(error)


async def test_a_target_is_needed(wire):
    request = pb.GenerateRequest(text="x", max_tokens=1)
    error = await refused(collect(wire.stubs.inference.Generate(request)))
    assert error.bad_request.field_violations[0].field == "target"


async def test_cancelled_calls_leave_no_task(wire):
    await wire.stubs.models.ListModels(pb.ListModelsRequest())
    before = len(asyncio.all_tasks())
    session = await wire.stubs.open("echo")
    wire.engine.hold()
    calls = [wire.stubs.inference.Step(step(session, seq)) for seq in range(1, 20)]
    await settled(lambda: len(wire.metrics.begun) >= 20)
    for call in calls:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    await settled(lambda: len(wire.metrics.ended) == len(wire.metrics.begun))
    wire.engine.release()
    await settled(lambda: len(asyncio.all_tasks()) <= before)
