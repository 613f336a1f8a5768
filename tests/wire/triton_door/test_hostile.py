"""Requests that do not fit: each told why in Triton's words, none costs a sequence anything."""

from __future__ import annotations

import numpy as np
import pytest
from support.fake_engine import WIDTH
from support.triton import request, set_parameter
from support.wire import refused

from carousel_protos.triton import inference_pb2 as pb

ROW = np.arange(WIDTH, dtype="<f4")


def good():
    return request("echo", ROW, 7, start=True, id="r7")


def spoilt(change):
    asked = good()
    change(asked)
    return asked


def shape(*dims):
    def change(asked):
        del asked.inputs[0].shape[:]
        asked.inputs[0].shape.extend(dims)

    return change


def contents(field, *values):
    def change(asked):
        del asked.raw_input_contents[:]
        getattr(asked.inputs[0].contents, field).extend(values)

    return change


def both(asked):
    asked.inputs[0].contents.fp32_contents.extend([0.0] * WIDTH)


def parameter(name, value):
    return lambda asked: set_parameter(asked, name, value)


CASES = {
    "an unknown model": (
        lambda r: setattr(r, "model_name", "nope"), "MODEL_NOT_FOUND",
        "Request for unknown model: 'nope' is not found",
    ),
    "a very long model name": (
        lambda r: setattr(r, "model_name", "n" * 10_000), "MODEL_NOT_FOUND",
        "Request for unknown model: 'nnn",
    ),
    "an unknown version": (
        lambda r: setattr(r, "model_version", "7"), "MODEL_NOT_FOUND",
        "Request for unknown model: 'echo' version 7 is not found",
    ),
    "no version": (
        lambda r: setattr(r, "model_version", "latest"), "FIELD_INVALID",
        "failed to get model version from specified version string 'latest'",
    ),
    "a batch": (
        shape(2, WIDTH), "INPUT_SHAPE",
        ("inference request to model 'echo' must specify batch-size 1 due to requirements of sequence "
        "batcher"),
    ),
    "another width": (
        shape(1, WIDTH + 1), "INPUT_SHAPE",
        f"unexpected shape for input 'x' for model 'echo'. Expected [-1,{WIDTH}], got [1,{WIDTH + 1}]",
    ),
    "no batch dimension": (shape(WIDTH), "INPUT_SHAPE", "unexpected shape for input 'x'"),
    "no shape": (shape(), "INPUT_SHAPE", "unexpected shape for input 'x'"),
    "negative dimensions": (shape(-1, -WIDTH), "INPUT_SHAPE", "unexpected shape for input 'x'"),
    "thousands of dimensions": (
        shape(*range(5000)), "INPUT_SHAPE", "unexpected shape for input 'x'",
    ),
    "another datatype": (
        lambda r: setattr(r.inputs[0], "datatype", "INT32"), "INPUT_DTYPE",
        "inference input 'x' data-type is 'INT32', but model 'echo' expects 'FP32'",
    ),
    "another input": (
        lambda r: setattr(r.inputs[0], "name", "y"), "FIELD_INVALID",
        "unexpected inference input 'y' for model 'echo'",
    ),
    "an input with a very long name": (
        lambda r: setattr(r.inputs[0], "name", "ä" * 100_000), "FIELD_INVALID",
        "unexpected inference input 'ää",
    ),
    "an output with a very long name": (
        lambda r: r.outputs.add(name="o" * 100_000), "FIELD_INVALID",
        "unexpected inference output 'oo",
    ),
    "an output as classes": (
        lambda r: r.outputs.add(name="y").parameters["classification"].CopyFrom(
            pb.InferParameter(int64_param=3)
        ),
        "FIELD_INVALID", "classification of outputs is not offered for model 'echo'",
    ),
    "an output twice": (
        lambda r: [r.outputs.add(name="y") for _ in range(2)], "FIELD_INVALID",
        "expected at most 1 outputs but got 2 for model 'echo'",
    ),
    "an output a hundred thousand times": (
        lambda r: [r.outputs.add(name="y") for _ in range(100_000)], "FIELD_INVALID",
        "expected at most 1 outputs but got 100000 for model 'echo'",
    ),
    "a very long datatype": (
        lambda r: setattr(r.inputs[0], "datatype", "D" * 100_000), "INPUT_DTYPE", "data-type is",
    ),
    "many inputs with long names": (
        lambda r: [r.inputs.add(name="n" * 10_000) for _ in range(50)], "FIELD_INVALID",
        "expected 1 inputs but got 51 inputs",
    ),
    "no input": (
        lambda r: r.ClearField("inputs"), "FIELD_INVALID",
        ("expected 1 inputs but got 0 inputs for model 'echo'. Got input(s) [], but missing required "
        "input(s) ['x']"),
    ),
    "two inputs": (
        lambda r: r.inputs.add(name="x2"), "FIELD_INVALID", "expected 1 inputs but got 2 inputs",
    ),
    "too few bytes": (
        lambda r: r.raw_input_contents.__setitem__(0, b"abc"), "INPUT_SHAPE",
        "input byte size mismatch for input 'x' for model 'echo'. Expected 16, got 3",
    ),
    "too many bytes": (
        lambda r: r.raw_input_contents.__setitem__(0, bytes(100_000)), "INPUT_SHAPE",
        "input byte size mismatch",
    ),
    "no bytes": (
        lambda r: r.ClearField("raw_input_contents"), "FIELD_INVALID",
        "unable to find data for input tensor 'x' for model 'echo' in request",
    ),
    "bytes for two": (
        lambda r: r.raw_input_contents.append(b""), "FIELD_INVALID",
        "more raw_input_contents than inputs",
    ),
    "bytes and contents": (
        both, "FIELD_INVALID",
        "contents field must not be specified when using raw_input_contents for 'x' for model 'echo'",
    ),
    "contents of another type": (
        contents("int_contents", 1, 2, 3, 4), "INPUT_SHAPE", "input byte size mismatch",
    ),
    "too few contents": (
        contents("fp32_contents", 1.0), "INPUT_SHAPE", "Expected 16, got 4",
    ),
    "an unknown output": (
        lambda r: r.outputs.add(name="zz"), "FIELD_INVALID",
        "unexpected inference output 'zz' for model 'echo'",
    ),
    "a sequence id of another type": (
        parameter("sequence_id", 1.5), "FIELD_INVALID",
        "invalid value type for 'sequence_id' parameter, expected int64_param or string_param",
    ),
    "a very long sequence id": (
        parameter("sequence_id", "s" * 129), "FIELD_INVALID", "at most 128 characters",
    ),
    "a flag of another type": (
        parameter("sequence_start", 1), "FIELD_INVALID",
        "invalid value type for 'sequence_start' parameter, expected bool_param",
    ),
    "an end of another type": (
        parameter("sequence_end", "yes"), "FIELD_INVALID", "expected bool_param",
    ),
    "a negative priority": (
        parameter("priority", -1), "FIELD_INVALID",
        "invalid value for 'priority', expected value >= 0",
    ),
    "a priority of another type": (parameter("priority", "high"), "FIELD_INVALID", "priority"),
    "a timeout of another type": (parameter("timeout", 0.5), "FIELD_INVALID", "timeout"),
    "a final response of another type": (
        parameter("triton_enable_empty_final_response", 1), "FIELD_INVALID", "expected bool_param",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "reason", "text"), CASES.values(), ids=CASES)
async def test_a_bad_request_is_refused_and_the_sequence_is_unharmed(
    wire, fake, change, reason, text
):
    await fake.ask("ModelInfer", good())
    bad = spoilt(change)
    error = await refused(fake.ask("ModelInfer", bad))
    assert error.reason == reason
    assert text in error.message
    assert len(error.message) < 1500
    stream = fake.stream()
    await stream.call.write(bad.SerializeToString())
    assert text in await stream.error()
    await stream.say("echo", ROW, 7)
    np.testing.assert_array_equal((await stream.output())["y"], ROW[None])
    assert wire.engine.session("triton:echo:7").applied == 2


async def test_a_message_above_the_limit_is_refused_by_name(start_wire):
    from support.triton import TritonStubs

    wire = await start_wire(max_message_bytes=4096)
    async with TritonStubs(wire.target) as stubs:
        large = spoilt(lambda r: r.raw_input_contents.__setitem__(0, bytes(5000)))
        assert (await refused(stubs.ask("ModelInfer", large))).reason == "MESSAGE_TOO_LARGE"


async def test_bytes_that_are_no_message_are_refused_by_name(fake):
    error = await refused(fake.raw("ModelInfer")(b"\xff\xff"))
    assert error.reason == "MALFORMED_MESSAGE"


@pytest.mark.parametrize(
    "change",
    [
        contents("fp32_contents", *ROW.tolist()),
        lambda r: r.outputs.add(name="y"),
        lambda r: r.inputs[0].parameters["binary_data_size"].__setattr__("int64_param", 16),
        parameter("priority", 3),
        parameter("timeout", 0),
        parameter("timeout", -5),
        parameter("unknown", "value"),
        lambda r: setattr(r, "model_version", "1"),
    ],
)
async def test_what_tritons_clients_may_add(fake, change):
    reply = await fake.ask("ModelInfer", spoilt(change))
    assert reply.id == "r7"
    assert reply.raw_output_contents[0] == ROW.tobytes()


async def test_an_unsigned_sequence_id_is_the_same_as_a_signed_one(wire, fake):
    asked = good()
    asked.parameters["sequence_id"].uint64_param = 2**64 - 1
    await fake.ask("ModelInfer", asked)
    await fake.infer("echo", ROW, -1)
    assert wire.engine.session(f"triton:echo:{2**64 - 1}").applied == 2


async def test_a_priority_may_be_unsigned(fake):
    asked = good()
    asked.parameters["priority"].uint64_param = 2**64 - 1
    assert isinstance(await fake.ask("ModelInfer", asked), pb.ModelInferResponse)
