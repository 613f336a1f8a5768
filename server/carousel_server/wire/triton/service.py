"""The table of methods of Triton's service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from carousel_protos.triton import inference_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.wire.calls import Context
from carousel_server.wire.messages import parse

from .methods import TritonMethods

SERVICE = "inference.GRPCInferenceService"

NOT_OFFERED = {
    "RepositoryModelLoad": "models are loaded when the server starts",
    "RepositoryModelUnload": "models are loaded when the server starts",
    "SystemSharedMemoryStatus": "tensors travel in messages",
    "SystemSharedMemoryRegister": "tensors travel in messages",
    "SystemSharedMemoryUnregister": "tensors travel in messages",
    "CudaSharedMemoryStatus": "tensors travel in messages",
    "CudaSharedMemoryRegister": "tensors travel in messages",
    "CudaSharedMemoryUnregister": "tensors travel in messages",
    "TraceSetting": "there are no traces; metrics have latencies by model",
    "LogSettings": "logging is set by log_level and log_format at start",
}
"""Methods of Triton that this server does not have, and why."""

_Unary = Callable[[Any, Context], Awaitable[Message]]
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def triton_handler(triton: TritonMethods, most: int) -> grpc.GenericRpcHandler:
    """The handler of `inference.GRPCInferenceService`. Requests reach it as bytes, of `most` at most."""
    about, inference = triton

    def unary(kind: type[Message], method: _Unary) -> _Handler:
        async def behaviour(data: bytes, context: Context) -> bytes:
            return (await method(parse(kind, data, most), context)).SerializeToString()

        return grpc.unary_unary_rpc_method_handler(behaviour)

    methods: dict[str, _Handler] = {
        "ServerLive": unary(pb.ServerLiveRequest, about.server_live),
        "ServerReady": unary(pb.ServerReadyRequest, about.server_ready),
        "ModelReady": unary(pb.ModelReadyRequest, about.model_ready),
        "ServerMetadata": unary(pb.ServerMetadataRequest, about.server_metadata),
        "ModelMetadata": unary(pb.ModelMetadataRequest, about.model_metadata),
        "ModelConfig": unary(pb.ModelConfigRequest, about.model_config),
        "ModelStatistics": unary(pb.ModelStatisticsRequest, about.model_statistics),
        "RepositoryIndex": unary(pb.RepositoryIndexRequest, about.repository_index),
        # These two write bytes themselves: they are the hot path.
        "ModelInfer": grpc.unary_unary_rpc_method_handler(inference.infer),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(inference.stream),
    }
    methods |= {name: _refusing(name, why) for name, why in NOT_OFFERED.items()}
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def _refusing(name: str, why: str) -> _Handler:
    async def behaviour(_data: bytes, _context: Context) -> bytes:
        raise CarouselError("METHOD_NOT_OFFERED", f"{name} is not offered: {why}")

    return grpc.unary_unary_rpc_method_handler(behaviour)
