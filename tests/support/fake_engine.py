"""An engine without a model, whose outputs are its inputs. For tests of the wire, with failures on demand.

Commands run inside `submit`, or later in `release` after `hold`. It has cursors, bindings and unacknowledged
outputs as a real engine.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from carousel_protos.states import STATE_TYPES
from carousel_server.core import ports
from carousel_server.core.errors import CarouselError
from carousel_server.core.metering import Readings
from carousel_server.core.quotas import Quotas
from carousel_server.core.types import (
    Durability,
    FinishReason,
    GeneratedToken,
    GenerationEnd,
    Int64s,
    ModelView,
    OpenSpec,
    Phase,
    SessionRef,
    SessionView,
    StateBytes,
    StateField,
    TensorField,
)

WIDTH = 4
ECHO = ModelView(
    name="echo",
    fingerprint="f" * 64,
    description="gives back what it gets",
    cell="custom",
    layers=0,
    hidden=0,
    input=TensorField("x", "<f4", (WIDTH,)),
    outputs=(TensorField("y", "<f4", (WIDTH,)),),
    causal=True,
    vocabulary=0,
    generative=False,
    tokenizer="",
    labels=(),
    parameters=0,
    state_bytes=0,
    compute_dtype="float32",
    window_steps=16,
    max_sequence_steps=64,
    states=(
        StateField("h", "float32", (2,)),
        StateField("half", "bfloat16", ()),
        StateField("flag", "bool", (2,)),
        StateField("lowest", "float64", (), finite=False),
    ),
    initials=("anna", "otto"),
)
ECHO_TOKENS = replace(
    ECHO,
    name="echo-tokens",
    input=TensorField("token", "<i4", ()),
    outputs=(TensorField("y", "<i4", ()),),
    vocabulary=256,
    generative=True,
    tokenizer="bytes",
)


@dataclass
class FakeSession:
    """One session of a FakeEngine."""

    ref: SessionRef
    spec: OpenSpec
    applied: int = 0
    ack: int = 0
    sink: ports.StepSink | None = None
    tag: int = 0
    kept: dict[int, bytes] = field(default_factory=dict)


class FakeEngine:
    """An EnginePort whose answers a test can see, delay or replace."""

    def __init__(self, model: ModelView = ECHO) -> None:
        self.model = model
        self.healthy = True
        self.sessions: dict[SessionRef, FakeSession] = {}
        # Every command that was submitted, in order.
        self.seen: list[ports.Command] = []
        # Raised by `submit` while set.
        self.refusal: CarouselError | None = None
        self._refused_next: tuple[type, CarouselError] | None = None
        # Sent to the sink instead of outputs while set.
        self.step_error: CarouselError | None = None
        # How many tokens a generation makes before it waits for `release`; None for all.
        self.tokens_before_pause: int | None = None
        self._held: list[ports.Command] | None = None
        self._paused: list[Callable[[], None]] = []
        self._next_row = 0

    def submit(self, command: ports.Command) -> None:
        if self._refused_next is not None and isinstance(command, self._refused_next[0]):
            error, self._refused_next = self._refused_next[1], None
            raise error
        if self.refusal is not None and not isinstance(command, ports.Unbind | ports.Close):
            raise self.refusal
        self.seen.append(command)
        if self._held is not None:
            self._held.append(command)
        else:
            self._run(command)

    def submit_steps(self, blocks: Sequence[ports.StepBlock]) -> None:
        for block in blocks:
            try:
                self.submit(block)
            except CarouselError as error:
                block.refuse(error)

    async def encode_text(self, text: str) -> Int64s:
        if not self.model.tokenizer:
            raise CarouselError("TEXT_UNAVAILABLE", "no tokenizer here")
        return np.frombuffer(text.encode(), np.uint8).astype(np.int64)

    async def encode_prompt(self, text: str) -> tuple[Int64s, int]:
        return await self.encode_text(text), 0

    # -- for tests

    def refuse_next(self, kind: type, error: CarouselError) -> None:
        """Refuses the next command of a kind."""
        self._refused_next = kind, error

    def hold(self) -> None:
        """Makes commands wait until `release`."""
        self._held = []

    def release(self) -> None:
        """Runs the waiting commands."""
        held, self._held = self._held or [], None
        for command in held:
            self._run(command)
        paused, self._paused = self._paused, []
        for go_on in paused:
            go_on()

    def session(self, session_id: str) -> FakeSession:
        """The session of this id."""
        return next(s for s in self.sessions.values() if s.spec.session_id == session_id)

    @property
    def bound(self) -> list[str]:
        """Ids of the sessions that are bound to a sink."""
        return [s.spec.session_id for s in self.sessions.values() if s.sink is not None]

    def expire(self, session_id: str) -> None:
        """Ends a session as its TTL would."""
        self._leave(self.session(session_id), "SESSION_EXPIRED")

    # -- commands

    def _run(self, command: ports.Command) -> None:
        reply: Future[Any] | None = getattr(command, "reply", None)
        try:
            result = getattr(self, f"_{type(command).__name__.lower()}")(command)
        except CarouselError as error:
            command.refuse(error)
        else:
            if reply is not None and not reply.cancelled():
                reply.set_result(result)

    def _find(self, ref: SessionRef) -> FakeSession:
        if ref not in self.sessions:
            raise CarouselError("SESSION_NOT_FOUND", "no such session")
        return self.sessions[ref]

    def _open(self, command: ports.Open) -> tuple[SessionRef, SessionView]:
        if not self.model.causal:
            raise CarouselError("MODEL_NOT_CAUSAL", "no sessions here")
        spec = command.spec
        for session in self.sessions.values():
            if (session.spec.tenant, session.spec.session_id) == (spec.tenant, spec.session_id):
                if session.spec != spec:
                    raise CarouselError("SESSION_EXISTS", "with other settings")
                return session.ref, self._view(session)
        self._next_row += 1
        ref = SessionRef(self._next_row, 1)
        if not spec.session_id:
            spec = replace(spec, session_id=f"chosen-{self._next_row}")
        self.sessions[ref] = FakeSession(ref, spec)
        return ref, self._view(self.sessions[ref])

    def _get(self, command: ports.Get) -> SessionView:
        return self._view(self._find(command.ref))

    def _list(self, command: ports.List) -> list[SessionView]:
        mine = (s for s in self.sessions.values() if s.spec.tenant == command.tenant)
        views = sorted(map(self._view, mine), key=lambda view: view.id)
        return [view for view in views if view.id > command.after][: command.limit]

    def _close(self, command: ports.Close) -> SessionView:
        session = self._find(command.ref)
        self._leave(session, "SESSION_CLOSED")
        return self._view(session)

    def _leave(self, session: FakeSession, reason: str) -> None:
        del self.sessions[session.ref]
        if session.sink is not None:
            session.sink.unbound(session.tag, CarouselError(reason, "the session is over"))

    def _bind(self, command: ports.Bind) -> SessionView:
        session = self._find(command.ref)
        if command.key not in (None, (session.spec.tenant, session.spec.session_id)):
            raise CarouselError("SESSION_NOT_FOUND", "another session is on this row")
        if session.sink is not None:
            session.sink.unbound(session.tag, CarouselError("SUPERSEDED", "a newer one came"))
        session.sink, session.tag = command.sink, command.tag
        return self._view(session)

    def _unbind(self, command: ports.Unbind) -> None:
        session = self.sessions.get(command.ref)
        if session is not None and session.sink is command.sink:
            session.sink = None

    def _stepblock(self, block: ports.StepBlock) -> None:
        width = self.model.input_row_bytes * block.steps
        good: list[tuple[int, int, bytes]] = []
        for i, (tag, ref, first) in enumerate(
            zip(block.tags, block.refs, block.first_seqs, strict=True)
        ):
            data = block.inputs[i * width : (i + 1) * width]
            try:
                self._step(self._find(ref), block, first, data)
            except CarouselError as error:
                block.sink.failures([tag], [error.seq], error)
            else:
                good.append((tag, first, data))
        if good:
            tags, firsts, data = zip(*good, strict=True)
            rows = np.frombuffer(b"".join(data), np.uint8).reshape(len(good), width)
            block.sink.outputs(np.array(tags), np.array(firsts), block.steps, rows)

    def _step(self, session: FakeSession, block: ports.StepBlock, first: int, data: bytes) -> None:
        if session.sink is not block.sink:
            raise CarouselError("SUPERSEDED", "bound elsewhere", seq=first)
        if self.step_error is not None:
            raise self.step_error
        if block.deadline_s <= time.monotonic():
            raise CarouselError("DEADLINE_EXCEEDED", "too late", seq=first)
        if first > session.applied + 1:
            expected = session.applied + 1
            raise CarouselError("SEQUENCE_GAP", "a gap", metadata={"expected": expected}, seq=first)
        size = self.model.input_row_bytes
        for k in range(block.steps):
            session.kept[first + k] = data[k * size : (k + 1) * size]
        session.applied = max(session.applied, first + block.steps - 1)

    def _ack(self, command: ports.Ack) -> None:
        for ref, ack in zip(command.refs, command.acks, strict=True):
            self.sessions[ref].ack = ack

    def _replay(self, command: ports.Replay) -> None:
        session = self._find(command.ref)
        seqs = range(session.ack + 1, session.applied + 1)
        if seqs and session.sink is not None:
            rows = np.frombuffer(b"".join(session.kept[s] for s in seqs), np.uint8)
            session.sink.outputs(
                np.array([session.tag]), np.array([seqs[0]]), len(seqs), rows.reshape(1, -1)
            )

    def _generate(self, command: ports.Generate) -> None:
        self._find(command.ref)
        count, pause = command.spec.max_tokens, self.tokens_before_pause
        first = count if pause is None else min(pause, count)

        def emit(numbers: Sequence[int]) -> None:
            for n in numbers:
                command.sink.tokens([GeneratedToken(id=97 + n % 26, text=chr(97 + n % 26), seq=n)])

        def finish() -> None:
            emit(range(first, count))
            command.sink.finished(GenerationEnd(FinishReason.LENGTH, 1, count, count, text="!"))
            if command.close_after:
                self._leave(self._find(command.ref), "SESSION_CLOSED")

        emit(range(first))
        if pause is None:
            finish()
        else:
            self._paused.append(finish)

    def _cancelgenerate(self, command: ports.CancelGenerate) -> None:
        self._paused.clear()
        command.sink.failed(CarouselError("SESSION_CLOSED", "cancelled"))

    def _infer(self, command: ports.Infer) -> np.ndarray:
        return np.frombuffer(command.inputs, np.uint8).reshape(-1, self.model.output_row_bytes)

    def _export(self, command: ports.Export) -> tuple[bytes, SessionView]:
        return b"snapshot", self._view(self._find(command.ref))

    def _readstate(self, command: ports.ReadState) -> tuple[StateBytes, SessionView]:
        session = self._find(command.ref)
        given = dict(session.spec.state)
        zeros = {s.name: bytes(_state_bytes(s)) for s in self.model.states}
        return tuple((zeros | given).items()), self._view(session)

    def _import(self, command: ports.Import) -> tuple[SessionRef, SessionView]:
        if command.snapshot != b"snapshot":
            raise CarouselError("SNAPSHOT_INVALID", "no snapshot", field="snapshot")
        return self._open(ports.Open(command.spec))

    def _fork(self, command: ports.Fork) -> tuple[SessionRef, SessionView]:
        self._find(command.ref)
        return self._open(ports.Open(command.spec))

    def _view(self, session: FakeSession) -> SessionView:
        return SessionView(
            id=session.spec.session_id,
            model=self.model.name,
            phase=Phase.RESIDENT,
            applied=session.applied,
            ack=session.ack,
            durable=0,
            epoch=1,
            durability=Durability.NONE,
            idle_ttl_s=session.spec.idle_ttl_s or 3600.0,
            created_at_unix_s=1_700_000_000.5,
            fingerprint=self.model.fingerprint,
            window_steps=self.model.window_steps,
            seed=session.spec.seed or 0,
            initial=session.spec.initial,
        )


def _state_bytes(state: StateField) -> int:
    return math.prod(state.shape) * STATE_TYPES[state.dtype].item_bytes


class FakeCatalog:
    """A CatalogPort over fake engines. Tests may set `store_fault`."""

    def __init__(self, *engines: FakeEngine, quotas: Quotas | None = None) -> None:
        self.quotas = quotas or Quotas()
        self.store_fault: str | None = None
        self._engines = sorted(engines, key=lambda engine: engine.model.name)

    def engines(self) -> Sequence[ports.EnginePort]:
        return self._engines

    def engine(self, model: str) -> ports.EnginePort:
        for engine in self._engines:
            if engine.model.name == model:
                return engine
        raise CarouselError("MODEL_NOT_FOUND", f"no model {model!r}", metadata={"model": model})

    def locate(self, tenant: str, session_id: str) -> ports.Place | None:
        for engine in self._engines:
            for session in engine.sessions.values():
                if (session.spec.tenant, session.spec.session_id) == (tenant, session_id):
                    return engine, session.ref
        return None

    def resume(
        self, tenant: str, session_id: str, epoch_floor: int = 0, take_over: bool = False
    ) -> Future[ports.Place]:
        found: Future[ports.Place] = Future()
        place = self.locate(tenant, session_id)
        if place is None:
            found.set_exception(CarouselError("SESSION_NOT_FOUND", f"no session {session_id!r}"))
        else:
            found.set_result(place)
        return found

    def open(self, engine: ports.EnginePort, spec: OpenSpec) -> ports.Opened:
        return ports.ask(engine, ports.Open(spec))

    def copy(self, engine: ports.EnginePort, command: ports.Import | ports.Fork) -> ports.Opened:
        return ports.ask(engine, command)

    def discard(self, tenant: str, session_id: str) -> Future[SessionView]:
        raise NotImplementedError

    def peek(self, tenant: str, session_id: str) -> Future[SessionView]:
        place = self.locate(tenant, session_id)
        if place is None:
            seen: Future[SessionView] = Future()
            seen.set_exception(CarouselError("SESSION_NOT_FOUND", f"no session {session_id!r}"))
            return seen
        command = ports.Get(place[1])
        place[0].submit(command)
        return command.reply

    def stored(self, tenant: str, after: str, limit: int, model: str) -> Future[list[SessionView]]:
        nothing: Future[list[SessionView]] = Future()
        nothing.set_result([])
        return nothing


@dataclass
class CountingMetrics:
    """WireMetrics that records its calls."""

    begun: list[tuple[str, str, str]] = field(default_factory=list)
    ended: list[tuple[str, str, str]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    quota_refusals: list[tuple[str, str]] = field(default_factory=list)
    open_streams: int = 0
    redirects: int = 0
    closed: int = 0
    turned: Counter[str] = field(default_factory=Counter)
    reloads: list[tuple[str, bool]] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)

    def started(self, service: str, method: str, kind: str) -> None:
        self.begun.append((service, method, kind))

    def handled(self, service: str, method: str, kind: str, code: str, seconds: float) -> None:
        assert seconds >= 0
        self.ended.append((method, kind, code))

    def redirected(self, count: int = 1) -> None:
        self.redirects += count

    def streams(self, count: int) -> None:
        self.open_streams = count

    def turned_away(self, what: str, count: int) -> None:
        self.turned[what] += count

    def reloaded(self, what: str, *, ok: bool) -> None:
        self.reloads.append((what, ok))

    def connection_closed(self) -> None:
        self.closed += 1

    def refused(self, reason: str, count: int = 1) -> None:
        self.refusals += [reason] * count

    def quota_refused(self, tenant: str, quota: str, count: int = 1) -> None:
        self.quota_refusals += [(tenant, quota)] * count

    def loop_lag(self, seconds: float) -> None:
        self.lags.append(seconds)

    def readings(self) -> Future[Readings]:
        now: Future[Readings] = Future()
        steps = {"carousel_steps_total": 7.0}
        now.set_result(
            Readings(1.5, {"echo": steps}, {"a": {"echo": {"carousel_steps_total": 3.0}}})
        )
        return now
