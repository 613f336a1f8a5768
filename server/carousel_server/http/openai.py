"""Routes that clients of OpenAI's API know: completions, and the list of models that generate."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic_core import to_json
from starlette.responses import Response
from starlette.routing import BaseRoute

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.core.types import FinishReason
from carousel_server.wire import WireServer
from carousel_server.wire.call import current_call
from carousel_server.wire.errors import invalid
from carousel_server.wire.messages import check_request_bytes
from carousel_server.wire.paging import MAX_PAGE

from .endpoint import Endpoint, route
from .generating import Collected
from .problems import STATUS, headers_of
from .replies import Replies, json_response
from .requests import JSON, Incoming
from .schemas import Body, Int32, UInt32

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "logprobs": (None,),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
}
"""Parameters of OpenAI's API that Carousel lacks, and the values that ask for nothing."""

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class StreamOptions(Body):
    """What a stream has at its end."""

    include_usage: bool = False


class Completion(Body):
    """A request of completions. Parameters that are not supported are refused by name."""

    model_config = ConfigDict(extra="allow")

    model: str
    prompt: str | list[Int32] | list[str] | list[list[Int32]] = Field(
        description="One prompt: a text, or token ids."
    )
    max_tokens: UInt32 | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: UInt32 | None = None
    repetition_penalty: float | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="Not used.")


def openai_error(error: CarouselError, _request_id: str) -> Response:
    """The answer of a refused call, in the form that clients of OpenAI's API show."""
    status = STATUS[error.reason]
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    shown = {
        "message": f"{error.message}. {error.spec.fix}",
        "type": kind,
        "param": error.field or None,
        "code": error.reason,
    }
    return Response(to_json({"error": shown}), status, headers_of(error), JSON)


def completion_request(body: Completion) -> pb.GenerateRequest:
    """The message of a completion.

    Raises:
        CarouselError: FIELD_INVALID, which names what is not supported.
    """
    for name, value in (body.model_extra or {}).items():
        if value not in _NEUTRAL.get(name, ()):
            raise invalid(name[:64], "is not supported here; leave it out")
    given: dict[str, Any] = {
        "temperature": body.temperature, "top_p": body.top_p, "top_k": body.top_k,
        "repetition_penalty": body.repetition_penalty,
        "seed": None if body.seed is None else body.seed % (1 << 64),
    }  # fmt: skip
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    request = pb.GenerateRequest(
        model=body.model,
        sampling=pb.Sampling(**{k: v for k, v in given.items() if v is not None}),
        max_tokens=16 if body.max_tokens is None else body.max_tokens,
        stop=stop,
    )
    prompt: Any = body.prompt
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        if len(prompt) > 1:
            raise invalid("prompt", "must be one prompt; call once for each")
        (prompt,) = prompt
    if isinstance(prompt, str):
        request.text = prompt
    else:
        request.tokens.CopyFrom(pb.Tokens(ids=prompt))
    return request


class _Chunks:
    """The CallContext of a completion that is streamed."""

    def __init__(self, incoming: Incoming, replies: Replies, head: dict[str, Any]) -> None:
        self.time_remaining = incoming.time_remaining
        self._replies = replies
        self._head = head
        self.last = pb.GenerateResponse()

    async def write(self, message: pb.GenerateResponse) -> None:
        """See `CallContext`."""
        self.last = message
        text = "".join(token.text for token in message.tokens)
        await self._replies.event(to_json({**self._head, "choices": [_choice(text, message)]}))


def _choice(text: str, message: pb.GenerateResponse) -> dict[str, Any]:
    reason = message.finish_reason
    finish = FinishReason(reason).name.lower() if reason else None
    return {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}


def _usage(message: pb.GenerateResponse) -> dict[str, int]:
    prompt, made = message.usage.prompt_tokens, message.usage.generated_tokens
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


def _model(model: pb.Model) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": 0, "owned_by": "carousel"}


def routes(wire: WireServer) -> list[BaseRoute]:
    """The routes."""
    methods = wire.methods

    async def completed(incoming: Incoming, replies: Replies) -> Response | None:
        body = incoming.json(Completion)
        request = completion_request(body)
        check_request_bytes(request.ByteSize(), wire.options.max_message_bytes)
        head = {
            "id": f"cmpl-{current_call().request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model,
        }
        if not body.stream:
            whole = Collected(incoming)
            await methods.generate.generate(request, whole)
            choices = [_choice(whole.text, whole.last)]
            return json_response({**head, "choices": choices, "usage": _usage(whole.last)})
        chunks = _Chunks(incoming, replies, head)
        await methods.generate.generate(request, chunks)
        if body.stream_options is not None and body.stream_options.include_usage:
            usage = {**head, "choices": [], "usage": _usage(chunks.last)}
            await replies.event(to_json(usage))
        await replies.event(b"[DONE]")
        await replies.end()
        return None

    async def listed(incoming: Incoming, _replies: Replies) -> Response:
        request = pb.ListModelsRequest(page_size=MAX_PAGE)
        found: list[dict[str, Any]] = []
        while True:
            page = await methods.models.list_models(request, incoming)
            found += [_model(model) for model in page.models if model.generative]
            if not page.next_page_token:
                return json_response({"object": "list", "data": found})
            request.page_token = page.next_page_token

    async def one(incoming: Incoming, _replies: Replies) -> Response:
        request = pb.GetModelRequest(name=incoming.path("model"))
        return json_response(_model((await methods.models.get_model(request, incoming)).model))

    made = Endpoint(
        wire, "Completions", completed, streams=True, refuse=openai_error, error_event=""
    )
    return [
        route("/v1/completions", made, "POST"),
        route("/v1/models", Endpoint(wire, "OpenAIModels", listed, refuse=openai_error), "GET"),
        route(
            "/v1/models/{model}", Endpoint(wire, "OpenAIModels", one, refuse=openai_error), "GET"
        ),
    ]
