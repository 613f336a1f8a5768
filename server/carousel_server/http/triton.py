"""Routes of Triton's protocol (KServe v2) over HTTP, with the sequences of its gRPC door."""

from __future__ import annotations

from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from pydantic_core import to_json
from starlette.responses import Response
from starlette.routing import BaseRoute

from carousel_protos.triton import inference_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.wire import WireServer
from carousel_server.wire.errors import named
from carousel_server.wire.messages import check_request_bytes

from .endpoint import Endpoint, Handler, route
from .problems import STATUS, headers_of
from .replies import Replies, json_response
from .requests import JSON, RAW, Incoming
from .triton_tensors import HEAD, infer_answer, infer_request, split


def triton_error(error: CarouselError, _request_id: str) -> Response:
    """The answer of a refused call: a text, which names the reason."""
    shown = named(error)
    body = to_json({"error": f"{shown.message}. {error.spec.fix}"})
    return Response(body, STATUS[error.reason], headers_of(error), JSON)


def _object(message: Message) -> dict[str, Any]:
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


class TritonRoutes:
    """Handlers over the methods of Triton's protocol."""

    def __init__(self, wire: WireServer) -> None:
        assert wire.triton is not None, "the protocol is off"
        self._about, self._inference = wire.triton
        self._most = wire.options.max_message_bytes

    async def live(self, incoming: Incoming, _replies: Replies) -> Response:
        """Whoever answers is alive."""
        return self._yes((await self._about.server_live(pb.ServerLiveRequest(), incoming)).live)

    async def ready(self, incoming: Incoming, _replies: Replies) -> Response:
        """503 once the server drains, or while a model is unhealthy."""
        reply = await self._about.server_ready(pb.ServerReadyRequest(), incoming)
        return self._yes(reply.ready)

    async def model_ready(self, incoming: Incoming, _replies: Replies) -> Response:
        """503 for a model that is not there, too."""
        request = pb.ModelReadyRequest(name=incoming.path("model"), version=self._version(incoming))
        return self._yes((await self._about.model_ready(request, incoming)).ready)

    async def server(self, incoming: Incoming, _replies: Replies) -> Response:
        """Name, version and extensions."""
        request = pb.ServerMetadataRequest()
        return json_response(_object(await self._about.server_metadata(request, incoming)))

    async def model(self, incoming: Incoming, _replies: Replies) -> Response:
        """The tensors of a model."""
        request = pb.ModelMetadataRequest(
            name=incoming.path("model"), version=self._version(incoming)
        )
        shown = _object(await self._about.model_metadata(request, incoming))
        for tensor in (*shown["inputs"], *shown["outputs"]):
            tensor["shape"] = [int(size) for size in tensor["shape"]]
        return json_response(shown)

    async def config(self, incoming: Incoming, _replies: Replies) -> Response:
        """A model's configuration."""
        request = pb.ModelConfigRequest(
            name=incoming.path("model"), version=self._version(incoming)
        )
        config = (await self._about.model_config(request, incoming)).config
        return json_response(MessageToDict(config, preserving_proto_field_name=True))

    async def infer(self, incoming: Incoming, _replies: Replies) -> Response:
        """Runs one step of a sequence."""
        head = incoming.request.headers.get(HEAD)
        if head is None:
            _ = incoming.is_raw  # refuses what a page of another site can send without asking
        shown, raw = split(incoming.body, head)
        request = infer_request(incoming.path("model"), self._version(incoming), shown, raw)
        check_request_bytes(request.ByteSize(), self._most)
        reply = await self._inference.infer(request.SerializeToString(), incoming)
        body, size = infer_answer(shown, pb.ModelInferResponse.FromString(reply))
        if size is None:
            return Response(body, 200, None, JSON)
        return Response(body, 200, {HEAD: str(size)}, RAW)

    @staticmethod
    def _version(incoming: Incoming) -> str:
        return str(incoming.request.path_params.get("version", ""))

    @staticmethod
    def _yes(is_so: bool) -> Response:
        return Response(status_code=200 if is_so else 503)


def routes(wire: WireServer) -> list[BaseRoute]:
    """The routes; none if Triton's protocol is off."""
    if wire.triton is None:
        return []
    made = TritonRoutes(wire)

    def at(path: str, method: str, handler: Handler, verb: str = "GET") -> BaseRoute:
        return route(path, Endpoint(wire, method, handler, refuse=triton_error), verb)

    found = [
        at("/v2", "ServerMetadata", made.server),
        at("/v2/health/live", "ServerLive", made.live),
        at("/v2/health/ready", "ServerReady", made.ready),
    ]
    for place in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        found += [
            at(place, "ModelMetadata", made.model),
            at(f"{place}/ready", "ModelReady", made.model_ready),
            at(f"{place}/config", "ModelConfig", made.config),
            at(f"{place}/infer", "ModelInfer", made.infer, "POST"),
        ]
    return found
