"""The same messages without a model: a gRPC server that answers every block with bytes of its size.

Started as `python -m bench.echo`; prints its port. What our protocol costs in Python's gRPC, whatever
is behind it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_protos.v1 import carousel_pb2_grpc as rpc

from .loops import run
from .models import STEPPED, WIDTH


class Echo(rpc.InferenceServiceServicer):
    """Attach without sessions: a bind is always fine, a block comes back."""

    async def Attach(  # noqa: N802 - the protocol's name
        self, requests: AsyncIterator[pb.AttachRequest], context: Any
    ) -> AsyncIterator[pb.AttachResponse]:
        """Answers each event at once."""
        async for request in requests:
            match request.WhichOneof("event"):
                case "block":
                    block = request.block
                    result = pb.BlockResult(
                        handles=block.handles, first_seqs=block.first_seqs, steps=block.steps,
                        outputs=block.inputs,
                    )  # fmt: skip
                    yield pb.AttachResponse(outputs=result)
                case "hello":
                    welcome = pb.Welcome(max_handles=1 << 16, max_message_bytes=4 << 20)
                    yield pb.AttachResponse(welcome=welcome)
                case "bind":
                    handle = request.bind.handle
                    session = pb.Session(
                        id=str(handle), model=STEPPED, phase=pb.PHASE_RESIDENT, window_steps=128
                    )
                    yield pb.AttachResponse(bound=pb.Bound(handle=handle, session=session))
                case "unbind":
                    unbound = pb.Unbound(handle=request.unbind.handle)
                    yield pb.AttachResponse(unbound=unbound)


class Described(rpc.ModelServiceServicer):
    """Says what the SDK asks before the first step."""

    async def GetModel(  # noqa: N802 - the protocol's name
        self, request: pb.GetModelRequest, context: Any
    ) -> pb.GetModelResponse:
        """The measured model."""
        return described(request.name)


def described(name: str) -> pb.GetModelResponse:
    """A model with rows of the measured width in and out."""
    spec = pb.TensorSpec(name="y", dtype=pb.DATA_TYPE_FLOAT32, shape=[WIDTH])
    model = pb.Model(
        name=name, input=spec, outputs=[spec], causal=True, window_steps=128,
        max_sequence_steps=1 << 16,
    )  # fmt: skip
    return pb.GetModelResponse(model=model)


def answers() -> dict[str, bytes]:
    """The same for an echo in another language: by method, what a client asks before the first step."""
    return {"carousel.v1.ModelService/GetModel": described(STEPPED).SerializeToString()}


async def main() -> None:
    """Serves on a free port until killed."""
    server = grpc.aio.server()
    rpc.add_InferenceServiceServicer_to_server(Echo(), server)  # type: ignore[abstract]
    rpc.add_ModelServiceServicer_to_server(Described(), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f'{{"port": {port}}}', flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    run(main())
