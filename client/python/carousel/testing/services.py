"""The fake server's services: unary calls, generations, and the transport of Attach."""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_protos.v1 import carousel_pb2_grpc as services

from .attach import FakeStream
from .model import FakeModel
from .refusals import Injections, Refusal
from .sessions import FakeSession, FakeSessions
from .states import begun, tensors_of


def answering(method: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a unary method: logs the call, raises injected refusals, and sends refusals as errors."""

    @functools.wraps(method)
    def answer(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            self.log.add(method.__name__)
            self.injections.check(method.__name__)
            with self.sessions.lock:
                return method(self, request)
        except Refusal as refusal:
            context.abort_with_status(rpc_status.to_status(refusal.status()))

    return answer


class CallLog:
    """Names of calls, in order. Any thread may use it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._names: list[str] = []

    def add(self, name: str) -> None:
        """Adds a call."""
        with self._changed:
            self._names.append(name)
            self._changed.notify_all()

    def wait_for(self, name: str, timeout_s: float) -> None:
        """Waits until a call of this name was added. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: name in self._names, timeout_s):
                raise TimeoutError(f"{name} was not called. Calls so far: {self._names}")

    def names(self) -> list[str]:
        """All calls so far."""
        with self._changed:
            return list(self._names)


class FakeServices(
    services.InferenceServiceServicer,
    services.SessionServiceServicer,
    services.ModelServiceServicer,
    health_pb2_grpc.HealthServicer,
):
    """All services of the protocol. gRPC's threads call them, and `sessions.lock` guards the state."""

    def __init__(
        self,
        models: dict[str, FakeModel],
        chunk_steps: int,
        *,
        durable: bool,
        commits: bool,
        sessions: FakeSessions | None = None,
    ) -> None:
        self.models = models
        durability = pb.DURABILITY_ASYNC if durable else pb.DURABILITY_NONE
        self.sessions = sessions or FakeSessions(models, durability)
        # Set once the server has a port.
        self.address = ""
        self._commits = commits
        self.injections = Injections()
        self.gate = threading.Event()
        self.gate.set()
        # How often connections were broken. A generation breaks when it grows.
        self.breaks = 0
        self.streams: set[FakeStream] = set()
        self.log = CallLog()
        self._chunk_steps = chunk_steps

    # -- inference

    def Attach(  # noqa: N802 - gRPC's name
        self, requests: Iterator[pb.AttachRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.AttachResponse]:
        """Attach."""
        try:
            self.injections.check("Attach")
        except Refusal as refusal:
            context.abort_with_status(rpc_status.to_status(refusal.status()))
        responses: queue.SimpleQueue[pb.AttachResponse | None] = queue.SimpleQueue()
        stream = FakeStream(
            self.sessions,
            self.injections,
            responses.put,
            self._chunk_steps,
            commits=self._commits,
            address=self.address,
        )
        self.streams.add(stream)
        context.add_callback(stream.end)

        def read() -> None:
            try:
                for request in requests:
                    self.gate.wait()
                    stream.receive(request)
            except grpc.RpcError:
                return  # the client has gone
            finally:
                stream.end()

        threading.Thread(target=read, name="fake-attach", daemon=True).start()
        yield from iter(responses.get, None)
        self.streams.discard(stream)
        if stream.cut_by is not None:
            context.abort_with_status(rpc_status.to_status(stream.cut_by.status()))
        if stream.is_cut and context.is_active():
            context.abort(grpc.StatusCode.UNAVAILABLE, "the stream was broken by the test")

    @answering
    def Step(self, request: pb.StepRequest) -> pb.StepResponse:  # noqa: N802
        """Step."""
        session = self._take(request.session_id)
        session.acknowledge(request.ack)
        row_bytes = session.model.codecs()[0].row_bytes
        data = request.inputs
        rows = [data[i : i + row_bytes] for i in range(0, len(data), row_bytes)]
        first = request.first_seq
        session.steps(first, rows, request.resets)
        if session.stored is not None:
            session.commit()
        outputs = session.kept(first, first + len(rows) - 1)
        return pb.StepResponse(first_seq=first, outputs=outputs, durable=session.durable)

    @answering
    def Infer(self, request: pb.InferRequest) -> pb.InferResponse:  # noqa: N802
        """Infer."""
        model = self.sessions.model(request.model)
        codec, _ = model.codecs()
        if request.WhichOneof("input") == "text":
            rows = np.frombuffer(request.text.encode(), np.uint8).astype("<i4")
        else:
            rows = codec.decode(request.inputs, -1)
        outputs, _ = model.run(rows, begun(model, request.initial))
        return pb.InferResponse(outputs=outputs, steps=len(rows))

    def Generate(  # noqa: N802
        self, request: pb.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateResponse]:
        """Generate: greedy, or sampled with NumPy by (seed, seq)."""
        self.log.add("Generate")
        context.add_callback(lambda: self.log.add("Generate ended"))
        try:
            self.injections.check("Generate")
            with self.sessions.lock:
                session = self._session_for(request)
                session.begin_generation(request)
            breaks = self.breaks
            for response in _generate(session, request, self.gate):
                self.injections.check("Token")
                if self.breaks > breaks:
                    context.abort(grpc.StatusCode.UNAVAILABLE, "the connection was reset")
                yield response
        except Refusal as refusal:
            context.abort_with_status(rpc_status.to_status(refusal.status()))

    def _take(self, session_id: str) -> FakeSession:
        return self.sessions.take(session_id, self.address)

    def _session_for(self, request: pb.GenerateRequest) -> FakeSession:
        if request.WhichOneof("target") == "session_id":
            return self._take(request.session_id)
        model = self.sessions.model(request.model)
        state = begun(model, request.initial)
        return FakeSession("", model, state, 0, initial=request.initial)

    # -- sessions

    @answering
    def GetSession(self, request: pb.GetSessionRequest) -> pb.GetSessionResponse:  # noqa: N802
        """GetSession."""
        session = self.sessions.get(request.session_id)
        if not session.is_visible_at(self.address):
            raise Refusal("SESSION_NOT_FOUND", session=session.id)
        return pb.GetSessionResponse(session=session.seen_from(self.address))

    @answering
    def OpenSession(self, request: pb.OpenSessionRequest) -> pb.OpenSessionResponse:  # noqa: N802
        """OpenSession."""
        return pb.OpenSessionResponse(session=self.sessions.open(request).message())

    @answering
    def CloseSession(self, request: pb.CloseSessionRequest) -> pb.CloseSessionResponse:  # noqa: N802
        """CloseSession."""
        session = self.sessions.close(self._take(request.session_id).id)
        if session.owner is not None:
            session.owner.unbind(session, Refusal("SESSION_CLOSED"))
        return pb.CloseSessionResponse(session=session.message())

    @answering
    def ListSessions(self, request: pb.ListSessionsRequest) -> pb.ListSessionsResponse:  # noqa: N802
        """ListSessions: two a page by default, so that clients must page."""
        size = request.page_size or 2
        found = self.sessions.page(request.model, request.page_token, size + 1, self.address)
        return pb.ListSessionsResponse(
            sessions=[session.seen_from(self.address) for session in found[:size]],
            next_page_token=found[size - 1].id if len(found) > size else "",
        )

    @answering
    def ExportSession(self, request: pb.ExportSessionRequest) -> pb.ExportSessionResponse:  # noqa: N802
        """ExportSession."""
        session = self._take(request.session_id)
        return pb.ExportSessionResponse(snapshot=session.snapshot(), session=session.message())

    @answering
    def GetState(self, request: pb.GetStateRequest) -> pb.GetStateResponse:  # noqa: N802
        """GetState."""
        session = self._take(request.session_id)
        return pb.GetStateResponse(state=tensors_of(session.state), session=session.message())

    @answering
    def ImportSession(self, request: pb.ImportSessionRequest) -> pb.ImportSessionResponse:  # noqa: N802
        """ImportSession."""
        session = self.sessions.restore(request.snapshot, request.session_id)
        return pb.ImportSessionResponse(session=session.message())

    @answering
    def ForkSession(self, request: pb.ForkSessionRequest) -> pb.ForkSessionResponse:  # noqa: N802
        """ForkSession."""
        source = self._take(request.session_id)
        session = self.sessions.restore(source.snapshot(), request.new_session_id)
        return pb.ForkSessionResponse(session=session.message())

    # -- models and health

    @answering
    def ListModels(self, request: pb.ListModelsRequest) -> pb.ListModelsResponse:  # noqa: N802
        """ListModels: one a page."""
        names = sorted(name for name in self.models if name > request.page_token)
        return pb.ListModelsResponse(
            models=[self.models[name].message() for name in names[:1]],
            next_page_token=names[0] if len(names) > 1 else "",
        )

    @answering
    def GetModel(self, request: pb.GetModelRequest) -> pb.GetModelResponse:  # noqa: N802
        """GetModel."""
        return pb.GetModelResponse(model=self.sessions.model(request.name).message())

    @answering
    def Check(self, request: Any) -> Any:  # noqa: N802
        """Health."""
        name = request.service.removeprefix("model/")
        if name and name not in self.models:
            raise Refusal("MODEL_NOT_FOUND", model=name)
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


def _generate(
    session: FakeSession, request: pb.GenerateRequest, gate: threading.Event
) -> Iterator[pb.GenerateResponse]:
    model = session.model
    if not model.message().generative:
        raise Refusal("MODEL_NOT_GENERATIVE")
    has_text = request.WhichOneof("prompt") == "text"
    prompt = list(request.text.encode()) if has_text else list(request.tokens.ids)
    codec, out = model.codecs()
    greedy = request.sampling.HasField("temperature") and request.sampling.temperature == 0
    if request.reset:
        if not prompt:
            raise Refusal("FIELD_INVALID")
        session.start_over()
    todo = prompt or session.drawn
    if not todo:
        raise Refusal("SEQUENCE_TOO_LONG")
    session.text_of(prompt)
    for _ in range(request.max_tokens):
        gate.wait()
        data, session.state = model.run(np.asarray(todo, codec.dtype), session.state)
        session.applied += len(todo)
        session.ack = session.applied
        logits = out.decode(data, -1)[-1].astype(np.float64)
        token = int(np.argmax(logits))
        if not greedy:
            rng = np.random.default_rng([request.sampling.seed, session.applied])
            weights = np.exp(logits - logits.max())
            token = int(rng.choice(len(weights), p=weights / weights.sum()))
        todo = session.drawn = [token]
        text = session.text_of([token])
        if session.stored is not None:
            session.commit()
        yield pb.GenerateResponse(tokens=[pb.Token(id=token, text=text, seq=session.applied)])
    if not session.id and session.unfinished:  # no later token can complete it
        yield pb.GenerateResponse(
            tokens=[pb.Token(id=session.drawn[0], text="\ufffd", seq=session.applied)]
        )
    yield pb.GenerateResponse(
        finish_reason=pb.FINISH_REASON_LENGTH,
        usage=pb.Usage(
            prompt_tokens=len(prompt),
            generated_tokens=request.max_tokens,
            applied=session.applied,
        ),
    )
