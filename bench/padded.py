"""`python -m bench.padded FOLDER`: whole sequences in padded batches, the way servers did before joining.

Collects the Infer calls that wait, pads them to the longest, runs the batch to its end, answers all,
collects again: nobody joins a batch that runs, and nobody leaves it early. Same wire, same model, same step
as in Carousel, on a thread of its own as there, and one message a sequence each way.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from typing import Any

import grpc
import numpy as np
import torch

from carousel_models import RecurrentModel, load
from carousel_protos.v1 import carousel_pb2 as pb
from carousel_protos.v1 import carousel_pb2_grpc as rpc

from .loops import run
from .models import STEPPED, WIDTH

MAX_BATCH = 64


class Padded(rpc.InferenceServiceServicer):
    """Infer only."""

    def __init__(self, model: RecurrentModel) -> None:
        self._model = model
        self._waiting: queue.SimpleQueue[tuple[np.ndarray, asyncio.Future[bytes]]] = (
            queue.SimpleQueue()
        )
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._turn, daemon=True).start()

    async def Infer(  # noqa: N802 - the protocol's name
        self, request: pb.InferRequest, context: Any
    ) -> pb.InferResponse:
        """Answers when the batch has ended that the sequence was in."""
        x = np.frombuffer(request.inputs, "<f4").reshape(-1, WIDTH)
        outputs: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting.put((x, outputs))
        return pb.InferResponse(outputs=await outputs, steps=len(x))

    def _turn(self) -> None:
        with torch.inference_mode():
            while True:
                batch = [self._waiting.get()]
                while len(batch) < MAX_BATCH and not self._waiting.empty():
                    batch.append(self._waiting.get())
                batch = [(x, outputs) for x, outputs in batch if not outputs.cancelled()]
                if not batch:
                    continue
                rows = padded_batch(self._model, [x for x, _ in batch])
                self._loop.call_soon_threadsafe(
                    _answer, [f for _, f in batch], [r.tobytes() for r in rows]
                )


def padded_batch(model: RecurrentModel, sequences: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs float32[T_i, W] of sequences float32[T_i, width], all run for as long as the longest."""
    longest = max(map(len, sequences))
    x = np.zeros((longest, len(sequences), sequences[0].shape[1]), np.float32)
    for i, sequence in enumerate(sequences):
        x[: len(sequence), i] = sequence
    state = model.initial_state(len(sequences))
    steps = []
    for inputs in torch.from_numpy(x):
        raw, state = model.step(inputs, state)
        steps.append(raw)
    outputs = model.finish(torch.stack(steps, dim=1))[0].cpu().numpy()
    return [outputs[i, : len(sequence)] for i, sequence in enumerate(sequences)]


def _answer(futures: list[asyncio.Future[bytes]], rows: list[bytes]) -> None:
    for future, data in zip(futures, rows, strict=True):
        if not future.done():
            future.set_result(data)


async def main() -> None:
    """Serves on a free port until killed."""
    torch.set_num_threads(1)
    server = grpc.aio.server()
    service = Padded(load(f"{sys.argv[1]}/{STEPPED}", device="cpu"))  # type: ignore[abstract]
    rpc.add_InferenceServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f'{{"port": {port}}}', flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    run(main())
