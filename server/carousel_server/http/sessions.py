"""Routes about sessions and their steps."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from starlette.responses import Response
from starlette.routing import BaseRoute

from carousel_protos.states import decode_state, type_name
from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.types import Durability, Phase
from carousel_server.wire import WireServer
from carousel_server.wire.messages import check_request_bytes

from .endpoint import Endpoint, route
from .replies import Replies, json_response
from .requests import RAW, Incoming
from .rows import fields_of, rows_of
from .schemas import ForkSession, OpenSession, RawSteps, SessionPage, Steps

_PLAIN = (
    *("id", "model", "applied", "ack", "durable", "epoch", "fingerprint", "window_steps"),
    *("execution_class", "initial", "holder"),
)

_DURABILITY = {
    "default": Durability.UNSPECIFIED,
    "none": Durability.NONE,
    "async": Durability.ASYNC,
    "sync": Durability.SYNC,
    "sync+fsync": Durability.SYNC_FSYNC,
}
_DURABILITY_NAMES = {int(number): name for name, number in _DURABILITY.items()}


def session_object(session: pb.Session) -> dict[str, Any]:
    """A session as JSON. The seed is a text, since JavaScript's numbers have 53 bits."""
    created = session.created_at.ToMicroseconds() / 1e6
    return {
        **{name: getattr(session, name) for name in _PLAIN},
        "phase": Phase(session.phase).name.lower(),
        "durability": _DURABILITY_NAMES[session.durability],
        "idle_ttl_s": session.idle_ttl.ToMicroseconds() / 1e6,
        "created_at": datetime.fromtimestamp(created, UTC).isoformat(),
        "seed": str(session.seed),
    }


def open_request(model: str, body: OpenSession) -> pb.OpenSessionRequest:
    """The message of an object."""
    request = pb.OpenSessionRequest(
        model=model,
        session_id=body.session_id,
        durability=_DURABILITY[body.durability].value,  # type: ignore[arg-type]
        initial=body.initial,
        seed=body.seed,
    )
    if body.idle_ttl_s is not None:
        request.idle_ttl.CopyFrom(Duration(nanos=0))
        request.idle_ttl.FromNanoseconds(int(body.idle_ttl_s * 1e9))
    return request


class SessionRoutes:
    """Handlers over SessionService and Step."""

    def __init__(self, wire: WireServer) -> None:
        self._sessions = wire.methods.sessions
        self._step = wire.methods.step
        self._most = wire.options.max_message_bytes

    async def open(self, incoming: Incoming, _replies: Replies) -> Response:
        """Opens a session."""
        request = open_request(incoming.path("model"), incoming.json(OpenSession))
        opened = await self._sessions.open_session(request, incoming)
        response = json_response(session_object(opened.session), 201)
        response.headers["location"] = f"/api/sessions/{opened.session.id}"
        return response

    async def listed(self, incoming: Incoming, _replies: Replies) -> Response:
        """Lists the caller's sessions."""
        request = pb.ListSessionsRequest(**incoming.query(SessionPage).model_dump())
        page = await self._sessions.list_sessions(request, incoming)
        sessions = [session_object(session) for session in page.sessions]
        return json_response({"sessions": sessions, "next_page_token": page.next_page_token})

    async def one(self, incoming: Incoming, _replies: Replies) -> Response:
        """Reads a session."""
        request = pb.GetSessionRequest(session_id=incoming.path("session"))
        found = await self._sessions.get_session(request, incoming)
        return json_response(session_object(found.session))

    async def close(self, incoming: Incoming, _replies: Replies) -> Response:
        """Closes a session."""
        request = pb.CloseSessionRequest(session_id=incoming.path("session"))
        closed = await self._sessions.close_session(request, incoming)
        return json_response(session_object(closed.session))

    async def fork(self, incoming: Incoming, _replies: Replies) -> Response:
        """Copies a session."""
        body = incoming.json(ForkSession)
        request = pb.ForkSessionRequest(
            session_id=incoming.path("session"), new_session_id=body.new_session_id, seed=body.seed
        )
        forked = await self._sessions.fork_session(request, incoming)
        return json_response(session_object(forked.session), 201)

    async def state(self, incoming: Incoming, _replies: Replies) -> Response:
        """Reads a session's state, as nested lists."""
        request = pb.GetStateRequest(session_id=incoming.path("session"))
        read = await self._sessions.get_state(request, incoming)
        states = [
            {
                "name": tensor.spec.name,
                "dtype": type_name(tensor.spec),
                "shape": list(tensor.spec.shape),
                "data": _numbers(tensor),
            }
            for tensor in read.state
        ]
        return json_response({"state": states, "session": session_object(read.session)})

    async def steps(self, incoming: Incoming, _replies: Replies) -> Response:
        """Runs steps."""
        session_id, raw = incoming.path("session"), incoming.is_raw
        model = await self._step.model_of(session_id)
        if raw:
            query = incoming.query(RawSteps)
            resets = bytes(int(mark) for mark in query.resets)
            request = pb.StepRequest(
                session_id=session_id, first_seq=query.first_seq, ack=query.ack,
                inputs=incoming.body, resets=resets,
            )  # fmt: skip
        else:
            body = incoming.json(Steps)
            request = pb.StepRequest(
                session_id=session_id, first_seq=body.first_seq, ack=body.ack,
                inputs=rows_of(model, body.inputs), resets=bytes(body.resets),
            )  # fmt: skip
        check_request_bytes(request.ByteSize(), self._most)
        stepped = await self._step.step(request, incoming)
        if incoming.wants_raw(default=raw):
            headers = {
                "carousel-first-seq": str(stepped.first_seq),
                "carousel-durable": str(stepped.durable),
            }
            return Response(stepped.outputs, 200, headers, RAW)
        return json_response(
            {
                "first_seq": stepped.first_seq,
                "outputs": fields_of(model, stepped.outputs),
                "durable": stepped.durable,
            }
        )


def _numbers(tensor: pb.StateTensor) -> Any:
    numbers = decode_state(tensor)
    if numbers.dtype.kind == "c":  # JSON has no complex numbers: each is [real, imaginary]
        numbers = numbers.view("<f4").reshape(*numbers.shape, 2)
    return numbers.tolist()


def routes(wire: WireServer) -> list[BaseRoute]:
    """The routes."""
    made = SessionRoutes(wire)
    one = "/api/sessions/{session}"
    return [
        route("/api/models/{model}/sessions", Endpoint(wire, "OpenSession", made.open), "POST"),
        route("/api/sessions", Endpoint(wire, "ListSessions", made.listed), "GET"),
        route(one, Endpoint(wire, "GetSession", made.one), "GET"),
        route(one, Endpoint(wire, "CloseSession", made.close), "DELETE"),
        route(f"{one}/fork", Endpoint(wire, "ForkSession", made.fork), "POST"),
        route(f"{one}/state", Endpoint(wire, "GetState", made.state), "GET"),
        route(f"{one}/steps", Endpoint(wire, "Step", made.steps), "POST"),
    ]
