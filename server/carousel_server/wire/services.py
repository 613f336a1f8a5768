"""The table of gRPC methods: which coroutine answers which call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from carousel_protos.v1 import carousel_pb2 as pb

from .call import CallContext
from .messages import parse
from .methods import Methods
from .options import WireOptions

PACKAGE = "carousel.v1"
SERVICE_NAMES = tuple(f"{PACKAGE}.{name}" for name in pb.DESCRIPTOR.services_by_name)

_Unary = Callable[[Any, CallContext], Awaitable[Message]]
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def service_handlers(options: WireOptions, methods: Methods) -> list[grpc.GenericRpcHandler]:
    """Handlers of all services of carousel.proto.

    Requests reach them as bytes (see messages.py), so no deserializer is registered with grpc.
    """
    most = options.max_message_bytes
    sessions, models, generate = methods.sessions, methods.models, methods.generate

    async def generate_behaviour(data: bytes, context: CallContext) -> None:
        await generate.generate(parse(pb.GenerateRequest, data, most), context)

    def unary(kind: type[Message], method: _Unary) -> _Handler:
        async def behaviour(data: bytes, context: CallContext) -> Message:
            return await method(parse(kind, data, most), context)

        return grpc.unary_unary_rpc_method_handler(behaviour, None, _serialize)

    services: dict[str, dict[str, _Handler]] = {
        "InferenceService": {
            # Attach writes bytes itself, so that it knows the size of what is on its way.
            "Attach": grpc.stream_stream_rpc_method_handler(methods.attach.attach),
            "Step": unary(pb.StepRequest, methods.step.step),
            "Infer": unary(pb.InferRequest, methods.infer.infer),
            "Generate": grpc.unary_stream_rpc_method_handler(generate_behaviour, None, _serialize),
        },
        "SessionService": {
            "OpenSession": unary(pb.OpenSessionRequest, sessions.open_session),
            "GetSession": unary(pb.GetSessionRequest, sessions.get_session),
            "ListSessions": unary(pb.ListSessionsRequest, sessions.list_sessions),
            "CloseSession": unary(pb.CloseSessionRequest, sessions.close_session),
            "ExportSession": unary(pb.ExportSessionRequest, sessions.export_session),
            "GetState": unary(pb.GetStateRequest, sessions.get_state),
            "ImportSession": unary(pb.ImportSessionRequest, sessions.import_session),
            "ForkSession": unary(pb.ForkSessionRequest, sessions.fork_session),
        },
        "ModelService": {
            "ListModels": unary(pb.ListModelsRequest, models.list_models),
            "GetModel": unary(pb.GetModelRequest, models.get_model),
        },
    }
    return [
        grpc.method_handlers_generic_handler(f"{PACKAGE}.{name}", handlers)
        for name, handlers in services.items()
    ]


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
