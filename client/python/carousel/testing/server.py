"""The fake server that a test starts and stops."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2_grpc

from carousel.types import SessionInfo
from carousel_protos.v1 import carousel_pb2_grpc as services

from .model import FakeModel
from .refusals import Refusal
from .services import FakeServices

WORKERS = 32


class FakeServer:
    """A gRPC server on a loopback address. Start and stop it with `with`.

    Args:
        models: the models that it serves.
        chunk_steps: most steps in one message of outputs.
        durable: True for a server with a store. It accepts every durability, and its sessions
            survive `crash`.
        commits: True commits each block as soon as it has run. False waits for `commit`.
        address: where it listens. Port 0 is any free one.
        beside: another server, whose models and store this one has too. Name both in the target of a client.

    Attributes:
        target: the argument of `Client`.
    """

    def __init__(
        self,
        *models: FakeModel,
        chunk_steps: int = 16,
        durable: bool = False,
        commits: bool = True,
        address: str = "127.0.0.1:0",
        beside: FakeServer | None = None,
    ) -> None:
        first: FakeServices | None = None
        if beside is not None:
            first = beside._services  # noqa: SLF001 - one of its kind
        self._services: FakeServices = FakeServices(
            {model.name: model for model in models} if first is None else first.models,
            chunk_steps,
            durable=durable,
            commits=commits,
            sessions=None if first is None else first.sessions,
        )
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="fake-server")
        options = [("grpc.so_reuseport", 0)]
        self._server = grpc.server(self._pool, options=options)
        register: Any = health_pb2_grpc.add_HealthServicer_to_server
        register(self._services, self._server)
        services.add_InferenceServiceServicer_to_server(self._services, self._server)
        services.add_SessionServiceServicer_to_server(self._services, self._server)
        services.add_ModelServiceServicer_to_server(self._services, self._server)
        port = self._server.add_insecure_port(address)
        self.target = f"{address.rpartition(':')[0]}:{port}"
        self._services.address = self.target

    def inject(
        self, call: str, reason: str, *, times: int = 1, retry_after_s: float | None = None
    ) -> None:
        """Refuses the next calls of one kind.

        Args:
            call: a method's name, such as "Infer". "Bind" is a Bind on a stream, "Step" the steps
                of one session in a block, "Token" the next message of a generation.
            reason: from the registry of errors, such as "SLAB_FULL".
            times: how many calls are refused.
            retry_after_s: the hint in the error.
        """
        self._services.injections.add(call, Refusal(reason, retry_after_s=retry_after_s), times)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Holds back all answers on streams until the end of the `with` block."""
        self._services.gate.clear()
        try:
            yield
        finally:
            self._services.gate.set()

    def expire(self, session_id: str) -> None:
        """Ends a session as if its idle TTL had passed."""
        with self._services.sessions.lock:
            session = self._services.sessions.close(session_id)
            for stream in list(self._services.streams):
                stream.unbind(session, Refusal("SESSION_EXPIRED"))

    def break_streams(self) -> None:
        """Breaks every Attach stream and generation, as a lost connection does. Sessions stay open."""
        self._services.breaks += 1
        for stream in list(self._services.streams):
            stream.cut()

    def commit(self) -> None:
        """Commits all steps that have run to the store."""
        with self._services.sessions.lock:
            self._services.sessions.commit()

    def hand_over(self, session_id: str, to: FakeServer | None = None) -> None:
        """Commits and releases a session. Its client continues it at `to`, or at any server beside it."""
        sessions = self._services.sessions
        with sessions.lock:
            sessions.hand_over(sessions.get(session_id), "" if to is None else to.target)

    def crash(self) -> None:
        """Kills the server and starts it again at once.

        Streams break. Sessions are restored from the store. Sessions without durability are gone.
        """
        with self._services.sessions.lock:
            self._services.sessions.crash(self.target)
            self.break_streams()

    def drain(self) -> None:
        """Shuts the server down in order and starts it again at once.

        All steps are committed, clients receive Drain, and streams end. Sessions without durability
        are gone.
        """
        with self._services.sessions.lock:
            self.commit()
            self._services.breaks += 1
            for stream in list(self._services.streams):
                stream.drain()
            self._services.sessions.crash(self.target)

    def sessions(self) -> list[SessionInfo]:
        """The open sessions, sorted by id."""
        with self._services.sessions.lock:
            found = self._services.sessions.page("", "", 1_000_000, self.target)
            return [SessionInfo.of(session.seen_from(self.target)) for session in found]

    def calls(self) -> list[str]:
        """Names of the unary calls and generations so far, and "Generate ended" for each end of one."""
        return self._services.log.names()

    def wait_for_call(self, name: str, timeout_s: float = 10.0) -> None:
        """Waits until a call of this name was received. Raises TimeoutError."""
        self._services.log.wait_for(name, timeout_s)

    def stop(self) -> None:
        """Breaks all calls and frees the port. A second call does nothing.

        A server beside it may take its sessions.
        """
        self._services.gate.set()
        self._server.stop(None).wait()
        with self._services.sessions.lock:
            for session in self._services.sessions.by_id.values():
                if session.holder == self.target and session.stored is not None:
                    session.holder, session.owner = "", None
        self._pool.shutdown()

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
