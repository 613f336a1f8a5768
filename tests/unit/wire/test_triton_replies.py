"""Replies written by hand are what protobuf would have written."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from support.fake_engine import ECHO, ECHO_TOKENS, FakeCatalog, FakeEngine

from carousel_protos.triton import inference_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.core.types import TensorField, TritonTensor
from carousel_server.wire.triton.models import ServedModel
from carousel_server.wire.triton.replies import ReplyForm, converted, stream_error, varint
from carousel_server.wire.triton.tensors import Tensor, Tensors

TOP_TWO = replace(
    ECHO,
    outputs=(TensorField("values", "<f4", (2,)), TensorField("indices", "<i4", (2,))),
    triton_outputs=(TritonTensor("SCORES", "FP32"), TritonTensor("PLACES", "INT64")),
)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("request_id", ["", "r", "i" * 127, "ä" * 64, "i" * 70_000])
@pytest.mark.parametrize("width", [1, 4, 100, 5000])
def test_one_output(streamed, request_id, width):
    view = replace(ECHO, outputs=(TensorField("y", "<f4", (width,)),))
    row = np.arange(width, dtype="<f4").tobytes()
    form = ReplyForm(Tensors(view), (0,), streamed=streamed)
    data = form.write(request_id.encode(), row)
    if streamed:
        reply = pb.ModelStreamInferResponse.FromString(data).infer_response
    else:
        reply = pb.ModelInferResponse.FromString(data)
    expected = pb.ModelInferResponse(
        model_name="echo", model_version="1", id=request_id, raw_output_contents=[row]
    )
    expected.outputs.add(name="y", datatype="FP32", shape=[1, width])
    if streamed:
        expected.parameters["triton_final_response"].bool_param = True
    assert reply == expected


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("places", [(0, 1), (1,), (1, 0), (0,)])
def test_several_outputs_in_the_order_asked_for(streamed, places):
    row = np.array([0.5, 0.25], "<f4").tobytes() + np.array([7, 3], "<i4").tobytes()
    data = ReplyForm(Tensors(TOP_TWO), places, streamed=streamed).write(b"r", row)
    if streamed:
        reply = pb.ModelStreamInferResponse.FromString(data).infer_response
    else:
        reply = pb.ModelInferResponse.FromString(data)
    raw = [np.array([0.5, 0.25], "<f4").tobytes(), np.array([7, 3], "<i8").tobytes()]
    assert list(reply.raw_output_contents) == [raw[place] for place in places]
    assert [o.name for o in reply.outputs] == [("SCORES", "PLACES")[place] for place in places]


def test_floats_that_stand_for_integers_are_rounded():
    tensor = Tensor("OUTPUT", "INT32", (4,), "<f4")
    found = np.frombuffer(converted(tensor, np.array([1.4, -2.6, 0, 2e9], "<f4").tobytes()), "<i4")
    assert found.tolist() == [1, -3, 0, 2_000_000_000]


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e9, -3e9])
def test_floats_that_are_no_integers_are_an_error(value):
    tensor = Tensor("OUTPUT", "INT32", (1,), "<f4")
    with pytest.raises(CarouselError, match="no number of type INT32"):
        converted(tensor, np.array([value], "<f4").tobytes())


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 16_383, 16_384, 2**32])
def test_lengths_are_written_as_protobuf_does(value):
    assert pb.StatisticDuration.FromString(b"\x08" + varint(value)).count == value


def test_a_streams_error_carries_text_and_request():
    reply = pb.ModelStreamInferResponse.FromString(stream_error("r", "why"))
    assert (reply.error_message, reply.infer_response.id) == ("why", "r")


# -- outputs that are asked for


def asking(*names):
    asked = pb.ModelInferRequest()
    for name in names:
        asked.outputs.add(name=name)
    return asked


@pytest.mark.parametrize(
    ("names", "places"),
    [
        ([], (0, 1)),
        (["SCORES"], (0,)),
        (["PLACES"], (1,)),
        (["SCORES", "PLACES"], (0, 1)),
        (["PLACES", "SCORES"], (1, 0)),
    ],
)
def test_each_output_may_be_asked_for_once(names, places):
    assert Tensors(TOP_TWO).chosen(asking(*names)) == places


@pytest.mark.parametrize(
    "names", [["PLACES"] * 2, ["SCORES", "PLACES", "SCORES"], ["PLACES"] * 999]
)
def test_no_output_is_written_twice(names):
    with pytest.raises(CarouselError, match=r"is asked for twice of|expected at most 2 outputs"):
        Tensors(TOP_TWO).chosen(asking(*names))


async def test_a_model_keeps_one_form_for_each_choice_and_no_more():
    served = ServedModel(FakeCatalog(), FakeEngine(TOP_TWO))
    names = ("SCORES", "PLACES")
    for count in range(4):
        for chosen in product(names, repeat=count):
            for streamed in (False, True):
                with suppress(CarouselError):
                    served.form(asking(*chosen), streamed=streamed)
    assert len(served._forms) == 2 * 4  # either, both, both the other way round


# -- inputs


def request(tensors, values, dtype):
    tensor = tensors.input
    asked = pb.ModelInferRequest(raw_input_contents=[np.asarray(values, dtype).tobytes()])
    asked.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=[1, *tensor.dims])
    return asked


def test_integers_may_stand_for_floats():
    tensors = Tensors(replace(ECHO, triton_input=TritonTensor("INPUT", "INT32")))
    row = tensors.row_of(request(tensors, [1, -2, 3, 1 << 24], "<i4"))
    assert np.frombuffer(row, "<f4").tolist() == [1.0, -2.0, 3.0, float(1 << 24)]


def test_an_integer_that_a_float_cannot_hold_is_refused():
    tensors = Tensors(replace(ECHO, triton_input=TritonTensor("INPUT", "INT32")))
    with pytest.raises(CarouselError, match="too large"):
        tensors.row_of(request(tensors, [1, 2, 3, (1 << 24) + 1], "<i4"))


def test_tokens_may_be_long_integers():
    tensors = Tensors(replace(ECHO_TOKENS, triton_input=TritonTensor("INPUT", "INT64")))
    assert tensors.row_of(request(tensors, [97], "<i8")) == np.array([97], "<i4").tobytes()
    with pytest.raises(CarouselError, match="too large"):
        tensors.row_of(request(tensors, [1 << 40], "<i8"))
