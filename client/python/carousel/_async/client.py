"""The asyncio client."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, Unpack

from grpc_health.v1 import health_pb2

from carousel._core.attach import AttachCore, BindTarget
from carousel._core.journal import Journal
from carousel._core.requests import (
    Prompt,
    fork_request,
    generate_request,
    infer_request,
    new_session_id,
    open_request,
)
from carousel._core.restoring import journaled_target
from carousel._core.retry import RetryPolicy
from carousel._core.rows import Array, ModelRows
from carousel._core.statistics import ClientStatistics
from carousel._core.tickets import BindTicket
from carousel._error_bases import CarouselError, NotFoundError
from carousel._journal_file import JournalPath, open_journal
from carousel._options import options_of
from carousel._tls import TLS
from carousel.types import (
    HEALTHS,
    STORE_SERVICE,
    Durability,
    GenerateOptions,
    Health,
    ModelInfo,
    SessionInfo,
)
from carousel_protos.v1 import carousel_pb2 as pb

from .batch import AsyncBatch
from .calls import AsyncCalls
from .generation import OWN_SESSION, AsyncGeneration
from .opening import Opening, opening
from .pending import AsyncPending
from .replicas import AsyncReplicas, At, Reply
from .session import AsyncSession
from .stream import AsyncAttachStream


class AsyncClient:
    """A connection to a Carousel server. Opens nothing before it is needed, so it may be made anywhere.

    It belongs to the event loop that uses it first. A call in another loop raises EventLoopError.

    Args:
        target: host:port, or any gRPC target, for one server. "a:50051,b:50051" for several, or
            "dns:///name:50051" for all behind a name. Then each session goes to a server of its own, and
            follows when it moves.
        token: bearer token, if the server asks for one.
        tls: True for the system's roots, or a `TLS`; None for a plain connection.
        timeout_s: of every call that names none of its own.
        retries: how often, or by which `RetryPolicy`, a refused call is tried again, and for how long a
            lost connection is mended; 0 does neither.
        replay_tolerance: greatest difference of floats that come again after a crash of the server. None
            allows none. A server in strict mode repeats every bit.
        journal_fsync: write each record of a journal to the disk before it counts. Without it a journal
            survives the end of this process, but not a loss of power.
    """

    def __init__(
        self,
        target: str,
        *,
        token: str | None = None,
        tls: TLS | bool | None = None,
        timeout_s: float = 30.0,
        retries: RetryPolicy | int = RetryPolicy(),  # noqa: B008 - it is frozen
        replay_tolerance: float | None = None,
        journal_fsync: bool = False,
    ) -> None:
        options = options_of(
            target,
            token,
            tls,
            timeout_s,
            retries,
            replay_tolerance=replay_tolerance,
            journal_fsync=journal_fsync,
        )
        self._calls = AsyncCalls(options)
        self._replicas = AsyncReplicas(self._calls)
        self._replicas.on_change = self._tidy
        self._core = AttachCore(self._replicas.addresses, options.retries)
        self._rows: dict[str, ModelRows] = {}
        self._stream: AsyncAttachStream | None = None
        # Guards `_stream`, and that none is made once the client is closed.
        self._lock = threading.Lock()

    # -- models

    async def models(self) -> list[ModelInfo]:
        """All models that the server serves, by name."""
        return [
            ModelInfo.of(model)
            async for page in self._replicas.pages("models", "ListModels", pb.ListModelsRequest())
            for model in page.models
        ]

    async def model(self, name: str) -> ModelInfo:
        """One model. Raises ModelNotFoundError."""
        return ModelInfo.of(await self._get_model(name))

    async def health(self, model: str = "", *, store: bool = False) -> Health:
        """Whether the server, one of its models, or its store takes work. UNKNOWN if it has no such model."""
        service = STORE_SERVICE if store else f"model/{model}" if model else ""
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            reply = await self._replicas.unary("health", "Check", request)
        except CarouselError as error:
            if error.code != "NOT_FOUND":
                raise
            return Health.UNKNOWN
        return HEALTHS.get(reply.message.status, Health.UNKNOWN)

    # -- whole sequences and text

    async def infer(
        self, model: str, inputs: Any, *, initial: str = "", timeout_s: float | None = None
    ) -> Array:
        """Runs a whole sequence, without a session; the only way to run a bidirectional model.

        Args:
            model: its name.
            inputs: [T, *row] of floats, [T] of token ids, or a text or bytes where the model has a
                tokenizer for it.
            initial: name of the initial state, from `ModelInfo.initials`.
            timeout_s: else the client's.

        Returns:
            [T, *output row]; a structured array if the model gives several fields, such as the
            values and indices of its top k: `result["indices"]`.
        """
        rows = await self._model_rows(model)
        rows.check_resets(used=initial)
        request = infer_request(rows, inputs, initial)
        reply = (await self._replicas.unary("inference", "Infer", request, timeout_s)).message
        return rows.decode(reply.outputs, reply.steps)

    def generate(
        self,
        model: str,
        prompt: Prompt,
        **options: Unpack[GenerateOptions],
    ) -> AsyncGeneration:
        """Feeds a prompt and yields the tokens that are drawn after it, as they come.

        Args:
            model: its name.
            prompt: a text, or token ids.
            options: see `carousel.GenerateOptions`.
        """
        request = generate_request(prompt, options, model=model)

        async def begins(sent: pb.GenerateRequest) -> None:
            if sent.initial:
                (await self._model_rows(model)).check_resets()

        hooks = OWN_SESSION._replace(begins=begins)
        return AsyncGeneration(self._replicas, request, options.get("timeout_s"), hooks)

    # -- sessions

    def session(
        self,
        model: str,
        *,
        session_id: str | None = None,
        durability: Durability | str = Durability.DEFAULT,
        idle_ttl_s: float | None = None,
        seed: int | None = None,
        initial: str = "",
        state: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        journal: JournalPath | None = None,
    ) -> Opening:
        """Opens a session with the model's initial state; its `with` block closes it.

        Args:
            model: its name.
            session_id: chosen for you if None.
            durability: what survives when the server dies.
            idle_ttl_s: idle time after which it expires; the server's default if None.
            seed: of its random numbers; chosen by the server if None.
            initial: name of an initial state of the model, from `ModelInfo.initials`.
            state: arrays by the names in `ModelInfo.states`; those left out begin as in `initial`.
            timeout_s: else the client's. While the server is full, it is asked again until then.
            journal: a file for the inputs and outputs of this session, which survives this process. If it
                holds a session, that session continues.
        """
        request = open_request(model, session_id, Durability(durability), idle_ttl_s, seed, initial)

        async def opened() -> AsyncSession:
            rows = await self._model_rows(
                model
            )  # an unknown model is refused before anything opens
            rows.check_resets(used=initial)
            del request.state[:]
            request.state.extend(rows.encode_states(state or {}))
            return await self._bind(
                request,
                owned=True,
                timeout_s=timeout_s,
                journal=journal,
                named=session_id is not None,
            )

        return opening(opened)

    def attach(
        self,
        session_id: str,
        *,
        timeout_s: float | None = None,
        journal: JournalPath | None = None,
    ) -> Opening:
        """Continues an open session from the server's cursors. Leaving its block only detaches it.

        With a journal of that session it continues from there; see `session`.
        """
        return opening(
            lambda: self._bind(session_id, owned=False, timeout_s=timeout_s, journal=journal)
        )

    def batch(self, sessions: Sequence[AsyncSession]) -> AsyncBatch:
        """Steps many sessions of one model with one message: the way to high throughput."""
        return AsyncBatch(sessions)

    async def sessions(self, model: str = "") -> AsyncIterator[SessionInfo]:
        """All your open sessions by id, of one model if named; pages are fetched as you go."""
        request = pb.ListSessionsRequest(model=model)
        async for page in self._replicas.pages("sessions", "ListSessions", request):
            for session in page.sessions:
                yield SessionInfo.of(session)

    async def session_info(self, session_id: str) -> SessionInfo:
        """One session, without attaching it.

        If another replica holds it, a client with several targets asks that one.
        """
        request = pb.GetSessionRequest(session_id=session_id)
        reply = await self._unary("GetSession", request, At(session_id))
        if self._replicas.remember(session_id, reply.message.session.holder):
            reply = await self._unary("GetSession", request, At(session_id))
        return SessionInfo.of(reply.message.session)

    async def close_session(self, session_id: str) -> SessionInfo:
        """Ends any of your sessions and forgets its state."""
        request = pb.CloseSessionRequest(session_id=session_id)
        reply = await self._unary("CloseSession", request, At(session_id))
        return SessionInfo.of(reply.message.session)

    def import_session(
        self, snapshot: bytes, *, session_id: str | None = None, model: str = ""
    ) -> Opening:
        """Opens a session from `AsyncSession.export`'s bytes, at a server with the same weights."""
        request = pb.ImportSessionRequest(
            snapshot=snapshot, session_id=session_id or new_session_id(), model=model
        )
        return opening(lambda: self._made("ImportSession", request, At(request.session_id)))

    def fork_session(
        self, source_id: str, *, session_id: str | None = None, seed: int | None = None
    ) -> Opening:
        """Opens a session with a copy of another's state."""
        return self._fork(At(source_id), session_id, seed)

    # -- life

    def statistics(self) -> ClientStatistics:
        """How often connections were mended, and what that took."""
        return self._core.statistics()

    async def close(self) -> None:
        """Cancels what is under way and disconnects. Sessions stay open until their idle_ttl passes.

        Does nothing in a forked child. Raises EventLoopError outside the client's loop.
        """
        home = self._calls.home
        if home.left:
            return
        home.check()
        with self._lock:
            home.closed = True
            stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()
        await self._replicas.close()

    async def __aenter__(self) -> Self:
        self._calls.home.check()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _unary(self, method: str, request: Any, at: At) -> Reply:
        """A call of the session service."""
        return await self._replicas.unary("sessions", method, request, at=at)

    def _fork(self, source: At, session_id: str | None, seed: int | None) -> Opening:
        request = fork_request(source.session_id, session_id, seed)
        return opening(lambda: self._made("ForkSession", request, source))

    async def _made(self, method: str, request: Any, at: At) -> AsyncSession:
        reply = await self._unary(method, request, at)
        made: str = reply.message.session.id
        return await self._bind(made, owned=True, address=reply.address)

    async def _bind(
        self,
        target: BindTarget,
        *,
        owned: bool,
        timeout_s: float | None = None,
        journal: JournalPath | None = None,
        named: bool = True,
        address: str = "",
    ) -> AsyncSession:
        async def attempt(left_s: float) -> AsyncSession:
            await self._replicas.ready()
            stream = self._attach_stream()
            known, whose = None, target
            if journal is not None:
                known, whose = await self._journal(journal, target, named=named)
            pending: AsyncPending[BindTicket] = AsyncPending(
                lambda core: core.bind(
                    whose, journal=known, address=address, now_s=self._calls.monotonic()
                )
            )
            try:
                ticket = await stream.ask(pending).wait(left_s)
                assert ticket is not None
                assert ticket.session is not None
                rows = await self._model_rows(ticket.session.model)
            except BaseException:
                stream.tell(lambda core: core.give_up(pending.ticket, known, owned=owned))
                raise
            ticket.lane.alike = rows.alike(self._calls.options.replay_tolerance)
            return AsyncSession(self, stream, ticket.lane, rows, owned=owned)

        return await self._calls.retrying(attempt, timeout_s)

    async def _journal(
        self, path: JournalPath, target: BindTarget, *, named: bool
    ) -> tuple[Journal, BindTarget]:
        """Opens a journal. Returns it, and the session that it belongs to."""
        journal = open_journal(path, fsync=self._calls.options.journal_fsync)
        try:
            if journal.closing:  # the process died before the server confirmed it
                with suppress(NotFoundError):
                    await self.close_session(journal.session_id)
            return journal, journaled_target(journal, target, named=named)
        except BaseException:
            journal.close()
            raise

    def _attach_stream(self) -> AsyncAttachStream:
        """The client's stream, from the first time that it is needed."""
        with self._lock:
            self._calls.home.check_open()
            if self._stream is None:
                self._stream = AsyncAttachStream(self._core, self._replicas)
            return self._stream

    def _tidy(self) -> None:
        """The servers' addresses have changed."""
        stream = self._stream
        if stream is not None:
            stream.tell(AttachCore.tidy)

    async def _get_model(self, name: str) -> pb.Model:
        request = pb.GetModelRequest(name=name)
        model: pb.Model = (await self._replicas.unary("models", "GetModel", request)).message.model
        return model

    async def _model_rows(self, name: str) -> ModelRows:
        if name not in self._rows:
            self._rows[name] = ModelRows(await self._get_model(name))
        return self._rows[name]
