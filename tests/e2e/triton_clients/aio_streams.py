"""The same with the asyncio client, and beside our own package in one process."""

import asyncio
import sys
import uuid

import numpy as np
import tritonclient.grpc.aio as triton

MODEL, VALUES = "simple_sequence", [11, 7, 5, 3, 2, 0, 1]


async def requests(ids):
    for sequence_id in ids:
        for n, value in enumerate(VALUES):
            data = np.full([1, 1], value, np.int32)
            given = triton.InferInput("INPUT", data.shape, "INT32")
            given.set_data_from_numpy(data)
            yield {
                "model_name": MODEL,
                "inputs": [given],
                "outputs": [triton.InferRequestedOutput("OUTPUT")],
                "request_id": f"{sequence_id}_{n}",
                "sequence_id": sequence_id,
                "sequence_start": n == 0,
                "sequence_end": n == len(VALUES) - 1,
            }


async def main(address):
    ids = [1000, 1001, str(uuid.uuid4())]
    found = []
    async with triton.InferenceServerClient(address) as client:
        async for result, error in client.stream_infer(requests(ids)):
            assert error is None, error
            found.append(int(result.as_numpy("OUTPUT")[0][0]))
    assert found == [12, *VALUES[1:]] * 3


asyncio.run(main(sys.argv[1]))
print("PASS")
