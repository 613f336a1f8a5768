"""Routes of generation: whole, or as server-sent events."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json
from starlette.responses import Response
from starlette.routing import BaseRoute

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.types import FinishReason
from carousel_server.wire import WireServer
from carousel_server.wire.errors import invalid
from carousel_server.wire.messages import check_request_bytes

from .endpoint import Endpoint, route
from .replies import Replies, json_response
from .requests import Incoming
from .schemas import Generation

_SAMPLING = tuple(pb.Sampling.DESCRIPTOR.fields_by_name)


def generate_request(body: Generation) -> pb.GenerateRequest:
    """The message of an object, without its target.

    Raises:
        CarouselError: FIELD_INVALID.
    """
    given = {name: getattr(body, name) for name in _SAMPLING}
    request = pb.GenerateRequest(
        sampling=pb.Sampling(**{k: v for k, v in given.items() if v is not None}),
        max_tokens=body.max_tokens,
        stop=body.stop,
        stop_tokens=body.stop_tokens,
        first_seq=body.first_seq,
        reset=body.reset,
        initial=body.initial,
    )
    if body.logprobs is not None:
        request.logprobs = body.logprobs
    if body.prompt is not None and body.tokens is not None:
        raise invalid("prompt", "set prompt or tokens, not both")
    if body.prompt is not None:
        request.text = body.prompt
    elif body.tokens is not None:
        request.tokens.CopyFrom(pb.Tokens(ids=body.tokens))
    return request


def token_object(token: pb.Token) -> dict[str, Any]:
    """A token as JSON."""
    shown: dict[str, Any] = {"id": token.id, "text": token.text, "seq": token.seq}
    if token.HasField("logprob"):
        shown["logprob"] = token.logprob
        shown["alternatives"] = [{"id": a.id, "logprob": a.logprob} for a in token.alternatives]
    return shown


def end_object(message: pb.GenerateResponse) -> dict[str, Any]:
    """How a generation has ended; empty if it goes on."""
    if not message.finish_reason:
        return {}
    usage = message.usage
    return {
        "finish_reason": FinishReason(message.finish_reason).name.lower(),
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "generated_tokens": usage.generated_tokens,
            "applied": usage.applied,
        },
    }


class Collected:
    """The CallContext of a generation that is answered whole."""

    def __init__(self, incoming: Incoming) -> None:
        self.time_remaining = incoming.time_remaining
        self.tokens: list[pb.Token] = []
        self.last = pb.GenerateResponse()

    async def write(self, message: pb.GenerateResponse) -> None:
        """See `CallContext`."""
        self.tokens += message.tokens
        self.last = message

    @property
    def text(self) -> str:
        """The text of all tokens."""
        return "".join(token.text for token in self.tokens)


class Streamed:
    """The CallContext of a generation that is answered as events."""

    def __init__(self, incoming: Incoming, replies: Replies) -> None:
        self.time_remaining = incoming.time_remaining
        self._replies = replies

    async def write(self, message: pb.GenerateResponse) -> None:
        """See `CallContext`."""
        shown = {"tokens": [token_object(t) for t in message.tokens], **end_object(message)}
        await self._replies.event(to_json(shown))


def routes(wire: WireServer) -> list[BaseRoute]:
    """The routes."""
    generate = wire.methods.generate.generate

    async def answered(
        request: pb.GenerateRequest, body: Generation, incoming: Incoming, replies: Replies
    ) -> Response | None:
        check_request_bytes(request.ByteSize(), wire.options.max_message_bytes)
        if body.stream:
            await generate(request, Streamed(incoming, replies))
            await replies.end()
            return None
        collected = Collected(incoming)
        await generate(request, collected)
        tokens = [token_object(token) for token in collected.tokens]
        return json_response(
            {"text": collected.text, "tokens": tokens, **end_object(collected.last)}
        )

    async def of_model(incoming: Incoming, replies: Replies) -> Response | None:
        body = incoming.json(Generation)
        request = generate_request(body)
        request.model = incoming.path("model")
        return await answered(request, body, incoming, replies)

    async def of_session(incoming: Incoming, replies: Replies) -> Response | None:
        body = incoming.json(Generation)
        request = generate_request(body)
        request.session_id = incoming.path("session")
        return await answered(request, body, incoming, replies)

    return [
        route(
            "/api/models/{model}/generate",
            Endpoint(wire, "Generate", of_model, streams=True),
            "POST",
        ),
        route(
            "/api/sessions/{session}/generate",
            Endpoint(wire, "Generate", of_session, streams=True),
            "POST",
        ),
    ]
