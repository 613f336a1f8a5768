"""Three sequences, all their steps at once, on one stream of `tritonclient`."""

import queue
import sys
import uuid

import numpy as np
import tritonclient.grpc as triton

MODEL, VALUES = "simple_sequence", [11, 7, 5, 3, 2, 0, 1]


def send(client, sequence_id, values):
    for n, value in enumerate(values):
        data = np.full([1, 1], value, np.int32)
        given = triton.InferInput("INPUT", data.shape, "INT32")
        given.set_data_from_numpy(data)
        client.async_stream_infer(
            MODEL,
            [given],
            request_id=f"{sequence_id}_{n}",
            sequence_id=sequence_id,
            sequence_start=n == 0,
            sequence_end=n == len(values) - 1,
        )


def main(address):
    replies = queue.Queue()
    ids = [1000, 1001, str(uuid.uuid4())]
    with triton.InferenceServerClient(address) as client:
        client.start_stream(callback=lambda result, error: replies.put((result, error)))
        for place, sequence_id in enumerate(ids):
            send(client, sequence_id, [place * value for value in VALUES])
        for place, sequence_id in enumerate(ids):  # replies keep the order of requests
            for n, value in enumerate(VALUES):
                result, error = replies.get(timeout=30)
                assert error is None, error
                assert result.get_response().id == f"{sequence_id}_{n}"
                assert result.as_numpy("OUTPUT")[0][0] == place * value + (n == 0)
        client.stop_stream()


main(sys.argv[1])
print("PASS")
