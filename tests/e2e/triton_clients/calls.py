"""Sequences by unary calls of `tritonclient`: numbers and texts as ids, errors by their text."""

import sys
import uuid

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

MODEL, VALUES = "simple_sequence", [11, 7, 5, 3, 2, 0, 1]


def tensor(value):
    data = np.full([1, 1], value, np.int32)
    given = triton.InferInput("INPUT", data.shape, "INT32")
    given.set_data_from_numpy(data)
    return given


def infer(client, value, **sequence):
    outputs = [triton.InferRequestedOutput("OUTPUT")]
    result = client.infer(MODEL, [tensor(value)], outputs=outputs, **sequence)
    return int(result.as_numpy("OUTPUT")[0][0])


def sequence(client, sequence_id):
    last = len(VALUES) - 1
    return [
        infer(client, value, sequence_id=sequence_id, sequence_start=n == 0, sequence_end=n == last)
        for n, value in enumerate(VALUES)
    ]


def refusal(client, sequence_id):
    """Why a request without START is refused after the sequence has ended."""
    try:
        infer(client, 1, sequence_id=sequence_id)
    except InferenceServerException as error:
        return error
    raise AssertionError("a sequence that had ended went on")


def main(address):
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(MODEL)
        assert not client.is_model_ready("nope")
        assert client.get_model_metadata(MODEL).inputs[0].name == "INPUT"
        assert client.get_model_config(MODEL).config.HasField("sequence_batching")
        assert client.get_inference_statistics(MODEL).model_stats[0].name == MODEL
        assert client.get_model_repository_index().models[0].state == "READY"
        for sequence_id in (1000, 1001, str(uuid.uuid4())):
            assert sequence(client, sequence_id) == [12, *VALUES[1:]]
        error = refusal(client, 1000)
        assert error.status() == "StatusCode.INVALID_ARGUMENT"
        assert "must specify the START flag" in error.message()


main(sys.argv[1])
print("PASS")
