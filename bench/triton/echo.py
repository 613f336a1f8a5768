"""Triton's messages without a model (N1): Python's gRPC parses each request and answers with its own row.

Started as `python -m bench.triton.echo ADDRESS`; prints its port. What a load generator asks about the
model is asked of the Carousel server at ADDRESS.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from bench.loops import run
from carousel_protos.triton import inference_pb2 as pb

_SERVICE = "inference.GRPCInferenceService"
_ABOUT = (
    "ServerLive", "ServerReady", "ModelReady", "ModelMetadata", "ModelConfig",
)  # fmt: skip


async def stream(
    requests: AsyncIterator[pb.ModelInferRequest], _context: Any
) -> AsyncIterator[Any]:
    """ModelStreamInfer."""
    async for request in requests:
        reply = pb.ModelStreamInferResponse()
        response = reply.infer_response
        response.model_name, response.model_version, response.id = (
            request.model_name,
            "1",
            request.id,
        )
        response.parameters["triton_final_response"].bool_param = True
        response.outputs.add(name="y", datatype="FP32", shape=request.inputs[0].shape)
        response.raw_output_contents.append(request.raw_input_contents[0])
        yield reply


_METADATA = pb.ServerMetadataResponse(name="echo", version="1").SerializeToString()
"""Without the extension `statistics`, so that nobody asks for them."""


async def _metadata(_request: bytes, _context: Any) -> bytes:
    """ServerMetadata."""
    return _METADATA


async def answers(address: str, model: str) -> dict[str, bytes]:
    """The same for an echo in another language: by method, what the server at `address` says of the model."""
    # The name is field 1 of every request about a model; the others have no fields and skip it.
    about = pb.ModelReadyRequest(name=model).SerializeToString()
    async with grpc.aio.insecure_channel(address) as channel:
        told = {f"{_SERVICE}/{name}": await _call(channel, name)(about) for name in _ABOUT}
    return {**told, f"{_SERVICE}/ServerMetadata": _METADATA}


def _call(channel: grpc.aio.Channel, method: str) -> Any:
    return channel.unary_unary(f"/{_SERVICE}/{method}")


def _asking(channel: grpc.aio.Channel, method: str) -> Callable[[bytes, Any], Any]:
    call = _call(channel, method)

    async def behaviour(data: bytes, _context: Any) -> Any:
        return await call(data)

    return behaviour


async def main(address: str) -> None:
    """Serves on a free port until killed."""
    async with grpc.aio.insecure_channel(address) as channel:
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(_asking(channel, name)) for name in _ABOUT
        }
        handlers["ServerMetadata"] = grpc.unary_unary_rpc_method_handler(_metadata)
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            stream,
            pb.ModelInferRequest.FromString,
            lambda message: message.SerializeToString(),
        )
        server = grpc.aio.server()
        generic = grpc.method_handlers_generic_handler(_SERVICE, handlers)
        server.add_generic_rpc_handlers((generic,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(f'{{"port": {port}}}', flush=True)
        await server.wait_for_termination()


if __name__ == "__main__":
    run(main(sys.argv[1]))
