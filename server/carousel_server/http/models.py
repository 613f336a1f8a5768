"""Routes about models."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response
from starlette.routing import BaseRoute

from carousel_protos.states import type_name as state_type
from carousel_protos.tensors import WIRE_DTYPES
from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.types import TensorField
from carousel_server.wire import WireServer

from .endpoint import Endpoint, route
from .replies import Replies, json_response
from .requests import Incoming
from .rows import type_name
from .schemas import Page

_PLAIN = (
    *("name", "fingerprint", "description", "cell", "layers", "hidden", "causal", "vocabulary"),
    *("generative", "tokenizer", "parameters", "state_bytes", "compute_dtype", "window_steps"),
    "max_sequence_steps",
)
_LISTS = ("labels", "initials")


def model_object(model: pb.Model) -> dict[str, Any]:
    """A model as JSON."""
    shown = {name: getattr(model, name) for name in _PLAIN}
    shown |= {name: list(getattr(model, name)) for name in _LISTS}
    shown["input"] = _row(model.input)
    shown["outputs"] = [_row(spec) for spec in model.outputs]
    shown["states"] = [
        {"name": spec.name, "dtype": state_type(spec), "shape": list(spec.shape)}
        for spec in model.states
    ]
    signal, decoder = model.signal, model.decoder
    shown["signal"] = None
    if model.HasField("signal"):
        shown["signal"] = {
            "hop": signal.hop, "rate": signal.rate, "output": signal.output, "delay": signal.delay,
        }  # fmt: skip
    shown["decoder"] = None
    if model.HasField("decoder"):
        shown["decoder"] = {
            "vocabulary": decoder.vocabulary, "start": decoder.start, "stop": decoder.stop,
            "most": decoder.most,
        }  # fmt: skip
    return shown


def _row(spec: pb.TensorSpec) -> dict[str, Any]:
    dtype = WIRE_DTYPES[spec.dtype]
    field = TensorField(spec.name, dtype, tuple(spec.shape))  # type: ignore[arg-type]
    return {"name": spec.name, "dtype": type_name(field), "shape": list(spec.shape)}


def routes(wire: WireServer) -> list[BaseRoute]:
    """The routes."""
    methods = wire.methods.models

    async def listed(incoming: Incoming, _replies: Replies) -> Response:
        request = pb.ListModelsRequest(**incoming.query(Page).model_dump())
        page = await methods.list_models(request, incoming)
        models = [model_object(model) for model in page.models]
        return json_response({"models": models, "next_page_token": page.next_page_token})

    async def one(incoming: Incoming, _replies: Replies) -> Response:
        request = pb.GetModelRequest(name=incoming.path("model"))
        return json_response(model_object((await methods.get_model(request, incoming)).model))

    return [
        route("/api/models", Endpoint(wire, "ListModels", listed), "GET"),
        route("/api/models/{model}", Endpoint(wire, "GetModel", one), "GET"),
    ]
