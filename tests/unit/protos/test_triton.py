"""Triton's messages live in a pool of their own, so that `tritonclient` may be imported beside them."""

from __future__ import annotations

import subprocess
import sys

from google.protobuf import descriptor_pool

from carousel_protos.triton import inference_pb2 as pb

CLASH = """
from google.protobuf import descriptor_pb2, descriptor_pool
from carousel_protos.triton import inference_pb2 as pb
theirs = descriptor_pb2.FileDescriptorProto(name="grpc_service.proto", package="inference")
theirs.message_type.add(name="ModelInferRequest").field.add(
    name="other", number=1, type=descriptor_pb2.FieldDescriptorProto.TYPE_INT32, label=1
)
descriptor_pool.Default().Add(theirs)
found = descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")
assert [field.name for field in found.fields] == ["other"]
assert pb.ModelInferRequest.FromString(pb.ModelInferRequest(id="r").SerializeToString()).id == "r"
"""


def test_the_default_pool_knows_nothing_of_them():
    pool = descriptor_pool.Default()
    try:
        pool.FindMessageTypeByName("inference.ModelInferRequest")
    except KeyError:
        return
    raise AssertionError("the default pool was touched")


def test_others_may_register_the_same_names_in_the_default_pool():
    done = subprocess.run([sys.executable, "-c", CLASH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_maps_choices_and_nested_messages_work():
    request = pb.ModelInferRequest()
    request.parameters["sequence_id"].uint64_param = 2**64 - 1
    request.inputs.append(pb.ModelInferRequest.InferInputTensor(name="x", shape=[1, 2]))
    again = pb.ModelInferRequest.FromString(request.SerializeToString())
    assert again == request
    assert again.parameters["sequence_id"].WhichOneof("parameter_choice") == "uint64_param"


def test_the_numbers_are_those_of_tritons_protocol():
    fields = {field.name: field.number for field in pb.ModelInferRequest.DESCRIPTOR.fields}
    assert fields == {
        "model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "inputs": 5, "outputs": 6,
        "raw_input_contents": 7,
    }  # fmt: skip
    assert (pb.TYPE_INT32, pb.TYPE_INT64, pb.TYPE_FP32) == (8, 9, 11)
    config = {field.name: field.number for field in pb.ModelConfig.DESCRIPTOR.fields}
    assert (config["sequence_batching"], config["max_batch_size"], config["backend"]) == (13, 4, 17)
