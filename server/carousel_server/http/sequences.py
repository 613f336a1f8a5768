"""The route of whole sequences."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import BaseRoute

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.wire import WireServer
from carousel_server.wire.errors import invalid
from carousel_server.wire.messages import check_request_bytes
from carousel_server.wire.places import find_engine

from .endpoint import Endpoint, route
from .replies import Replies, json_response
from .requests import RAW, Incoming
from .rows import fields_of, rows_of
from .schemas import RawSequence, Sequence


def routes(wire: WireServer) -> list[BaseRoute]:
    """The route."""

    async def infer(incoming: Incoming, _replies: Replies) -> Response:
        wire.gate.refuse_if_draining()
        raw = incoming.is_raw
        model = find_engine(wire.catalog, incoming.path("model")).model
        request = pb.InferRequest(model=model.name)
        if raw:
            request.inputs = incoming.body
            request.initial = incoming.query(RawSequence).initial
        else:
            body = incoming.json(Sequence)
            request.initial = body.initial
            if body.inputs is not None and body.text is not None:
                raise invalid("input", "set inputs or text, not both")
            if body.inputs is not None:
                request.inputs = rows_of(model, body.inputs)
            elif body.text is not None:
                request.text = body.text
        check_request_bytes(request.ByteSize(), wire.options.max_message_bytes)
        inferred = await wire.methods.infer.infer(request, incoming)
        if incoming.wants_raw(default=raw):
            headers = {"carousel-steps": str(inferred.steps)}
            return Response(inferred.outputs, 200, headers, RAW)
        outputs = fields_of(model, inferred.outputs)
        return json_response({"steps": inferred.steps, "outputs": outputs})

    return [route("/api/models/{model}/infer", Endpoint(wire, "Infer", infer), "POST")]
