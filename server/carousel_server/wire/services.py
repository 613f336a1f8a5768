"""The table of methods: which coroutine answers which call. Those of ModelService are here too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.catalog import CatalogPort

from .attach import Attach
from .calls import Context
from .gate import Gate
from .generate import Generate
from .infer import Infer
from .messages import parse
from .options import WireOptions
from .paging import check_page, page_token
from .places import find_engine
from .sessions import Sessions
from .unary import Step
from .views import model_message

PACKAGE = "carousel.v1"
SERVICE_NAMES = tuple(f"{PACKAGE}.{name}" for name in pb.DESCRIPTOR.services_by_name)

_Unary = Callable[[Any, Context], Awaitable[Message]]
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def service_handlers(
    catalog: CatalogPort, options: WireOptions, gate: Gate
) -> list[grpc.GenericRpcHandler]:
    """Handlers of all services of carousel.proto.

    Requests reach them as bytes (see messages.py), so no deserializer is registered with grpc.
    """
    most = options.max_message_bytes
    sessions, models = Sessions(catalog, options), Models(catalog)
    generate = Generate(catalog, options, gate)

    async def generate_behaviour(data: bytes, context: Context) -> None:
        await generate.generate(parse(pb.GenerateRequest, data, most), context)

    def unary(kind: type[Message], method: _Unary) -> _Handler:
        async def behaviour(data: bytes, context: Context) -> Message:
            return await method(parse(kind, data, most), context)

        return grpc.unary_unary_rpc_method_handler(behaviour, None, _serialize)

    services: dict[str, dict[str, _Handler]] = {
        "InferenceService": {
            # Attach writes bytes itself, so that it knows the size of what is on its way.
            "Attach": grpc.stream_stream_rpc_method_handler(Attach(catalog, options, gate).attach),
            "Step": unary(pb.StepRequest, Step(catalog, options, gate).step),
            "Infer": unary(pb.InferRequest, Infer(catalog, options, gate).infer),
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
        grpc.method_handlers_generic_handler(f"{PACKAGE}.{name}", methods)
        for name, methods in services.items()
    ]


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


class Models:
    """The methods of ModelService."""

    def __init__(self, catalog: CatalogPort) -> None:
        self._catalog = catalog

    async def list_models(
        self, request: pb.ListModelsRequest, _context: Context
    ) -> pb.ListModelsResponse:
        """ListModels."""
        size, after = check_page(request.page_size, request.page_token)
        found = [e.model for e in self._catalog.engines() if e.model.name > after]
        last = found[size - 1].name if len(found) > size else ""
        return pb.ListModelsResponse(
            models=[model_message(view) for view in found[:size]],
            next_page_token=page_token(last),
        )

    async def get_model(
        self, request: pb.GetModelRequest, _context: Context
    ) -> pb.GetModelResponse:
        """GetModel."""
        engine = find_engine(self._catalog, request.name, "name")
        return pb.GetModelResponse(model=model_message(engine.model))
