"""A simulated replica: the real wire, catalog, engine and store thread, turned by the world's events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.core.limits import EngineLimits
from carousel_server.core.types import SessionRef
from carousel_server.engine import Engine, Environment
from carousel_server.residency.activation import Activation
from carousel_server.residency.asking import Answering, Asking
from carousel_server.residency.catalog import Catalog
from carousel_server.residency.directory import Directory
from carousel_server.wire.attach import Conversation
from carousel_server.wire.errors import status_of
from carousel_server.wire.gate import Gate
from carousel_server.wire.messages import parse
from carousel_server.wire.options import WireOptions
from carousel_server.wire.outbox import Outbox
from carousel_server.wire.stream import Stream
from carousel_server.wire.turns import Submissions

from .calls import ServerCall
from .evictions import watch_evictions
from .model import FoldModel
from .mover import Mover, watch_rebalances
from .network import Connection, Payload
from .preemption import stop_after_binds
from .quiet import QuietEngineMetrics, QuietWireMetrics
from .storage import FaultyStore, Storage, TurnedStore
from .world import NATURE, Event, Life, World

if TYPE_CHECKING:
    from .oracle import Oracle

TENANT = "t"
WINDOW_STEPS = 8
DURABLE_STEPS = 3
PARK_AFTER_S = 0.3
LEASE_TTL_S = 0.5
HAND_OVER_S = 0.2
OPTIONS = WireOptions(retry_after_s=0.05, server_version="simulated")
_POLL_S = 0.02
CURT = tuple(
    CarouselError(reason, "not now", retry_after_s=0.05) for reason in ("DRAINING", "QUEUE_FULL")
)
"""Passing refusals that a curt server gives without saying to which session."""


class Loop:
    """What the wire needs of an event loop: callbacks in order, soon."""

    def __init__(self, world: World, life: Life) -> None:
        self._world = world
        self._life = life
        # How late it is at most: other work may keep it busy.
        self._late_s = world.rng.choice((0.002, 0.01, 0.05))
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._next: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> None:
        """As asyncio's."""
        if not self._calls:
            self._world.call(self._world.rng.random() * self._late_s, self._life, self._run)
        self._calls.append((callback, args))

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """As asyncio's: before the loop does anything else than it does now."""
        self._next.append((callback, args))

    def turn(self) -> None:
        """What is due at the end of an event."""
        due, self._next = self._next, []
        for callback, args in due:
            callback(*args)

    def _run(self) -> None:
        for _ in range(len(self._calls)):
            callback, args = self._calls.popleft()
            callback(*args)
        if self._calls:
            self._world.call(0.0, self._life, self._run)


class ServerEnd:
    """The server's end of one Attach stream: what `wire.attach.Attach` does, without coroutines."""

    def __init__(self, process: Process, connection: Connection) -> None:
        self.process = process
        self.life = process.life
        # For the oracle: session, attach id and epoch floor of each handle.
        self.sessions: dict[int, str] = {}
        self.attach_ids: dict[int, int] = {}
        self.epochs: dict[int, int] = {}
        # When a Bind with take_over came.
        self.take_overs: dict[int, float] = {}
        # Last step of each handle whose output was told, and the epoch that it was bound in.
        self.told: dict[int, int] = {}
        self.bound_epochs: dict[int, int] = {}
        # Last step of each handle that its client has been told to be durable.
        self.durable: dict[int, int] = {}
        # Handles whose session is being closed: its epoch then, and since when.
        self.closing: dict[int, tuple[int, float]] = {}
        # Last step as of each handle's Bound, until its client has asked for what ran before.
        self.unasked: dict[int, int] = {}
        self.writers = connection.client.process.writers
        self.connection = connection
        self._outbox = Outbox(OPTIONS.max_message_bytes, OPTIONS.max_unsent_bytes)
        self.stream = Stream(
            process.submissions,
            self._outbox,
            process.gate.metrics,
            process.catalog,
            TENANT,
        )
        self._conversation = Conversation(self.stream, process.catalog, OPTIONS, process.gate)
        self._admission = process.gate.admit(self.stream, TENANT)
        self._admission.__enter__()
        self.ended = False
        self._mends = connection.client.process.mends
        connection.serve(self)

    def take(self, payload: Payload) -> None:
        """A message of the client, or the end of what it says."""
        if self.ended:
            return
        if not isinstance(payload, bytes):
            self._outbox.end(None)
            return
        try:
            request = parse(pb.AttachRequest, payload, OPTIONS.max_message_bytes)
            self._note("<", request)
            if self._mends and self.process.is_curt():
                self.stream.refuse(0, self.process.world.rng.choice(CURT))
                return
            self.process.oracle.asked(self, request)
            self._conversation.take(request)
        except CarouselError as error:
            self._outbox.end(error)

    def flush(self) -> bool:
        """Sends what waits; closes the stream if it has ended. False from then on."""
        outbox = self._outbox
        while outbox._waiting:
            data = outbox._waiting.popleft()
            reply = pb.AttachResponse.FromString(data)
            outbox._waiting_bytes -= len(data)
            self._note(">", reply)
            self.process.oracle.said(self, reply)
            self.connection.to_client.send(data)
        if outbox.ended.is_set() and not self.ended:
            self.ended = True
            self.stream.close()
            self._admission.__exit__(None, None, None)
            end = outbox._end
            self.connection.server_ended(None if end is None else status_of(end))
        return not self.ended

    def _note(self, way: str, message: pb.AttachRequest | pb.AttachResponse) -> None:
        if self.process.world.tracing:
            text = str(message).replace("\n", " ")[:150]
            self.process.world.note(self.life.name, way, text)


class Process:
    """One life of a replica."""

    def __init__(self, replica: Replica) -> None:
        world = replica.world
        self.world = world
        self.oracle = replica.oracle
        self.life = Life(replica.name, self._after_event)
        self.storage = replica.storage
        self._store_event: Event | None = None
        self._faulty = FaultyStore(replica.storage, replica.name, LEASE_TTL_S)
        self.store = TurnedStore(self._faulty, world, self._wake_store)
        self.store.advertise(replica.address)
        self.loop = Loop(world, self.life)
        self.submissions = Submissions(self.loop)  # type: ignore[arg-type]
        directory = Directory()
        self.engine = Engine(
            replica.model,
            replica.limits,
            Environment(
                directory,
                lambda _view: QuietEngineMetrics(),
                self.store,
                clock=world.clock,
            ),
        )
        watch_evictions(self.engine, self.oracle.fail)
        watch_rebalances(self.engine, self.oracle.fail)
        activation = Activation(
            directory,
            {self.engine.model.name: self.engine},
            self.store,
            Asking(self.store, HAND_OVER_S, world.clock),
            default_idle_ttl_s=replica.limits.idle_ttl_s,
            max_idle_ttl_s=replica.limits.max_idle_ttl_s,
        )
        self.catalog = Catalog(directory, [self.engine], self.store, activation)
        answering = Answering(directory, {self.engine.model.name: self.engine}, self.store)
        self.store.hand_asked_to(answering.take)
        self.gate = Gate(OPTIONS, QuietWireMetrics(), self.catalog.quotas)
        self.ends: list[ServerEnd] = []
        # How far its durable sessions were after the last tick, for the oracle.
        self.applied: dict[SessionRef, int] = {}
        self.calls: list[ServerCall] = []
        self._tick_event: Event | None = None
        # How long a tick takes at most: the longer, the more is in the next one.
        self._tick_s = world.rng.choice((0.002, 0.01, 0.05))
        self._stopped = False
        self._slow_stop_s = replica.slow_stop_s
        # How likely a message is refused without saying to whom.
        self.curt = 0.0
        self.address = replica.address
        self.hand_over_s = HAND_OVER_S
        self.slow_prompts = replica.slow_prompts
        # False while the engine's or the store's thread runs.
        self.on_loop = True
        if replica.stops_after_binds:
            stop_after_binds(self)
        self.mover = Mover(self) if replica.in_fleet else None
        self._wake_store()
        self._schedule_tick(0.0)

    def lease(self) -> float:
        """Until when, in Unix seconds, the store holds what this life of the replica has."""
        return self.storage.lease_until(self.life.name, self._faulty.boot)

    # -- the wire

    def accept(self, connection: Connection) -> None:
        """A client has opened a stream."""
        try:
            self.ends.append(ServerEnd(self, connection))
        except CarouselError as error:
            connection.server_ended(status_of(error))

    def accept_call(self, request: pb.GenerateRequest, connection: Connection) -> None:
        """A client wants tokens."""
        self.calls.append(ServerCall(self, request, connection))

    @property
    def connections(self) -> list[Connection]:
        """Of all streams and calls."""
        return [end.connection for end in (*self.ends, *self.calls)]

    def drained(self, then: Callable[[], None]) -> None:
        """SIGTERM: hands over what can be, finishes what was accepted, ends all streams in good order."""
        if self.mover is None:
            self._finish_all(then)
            return
        self.gate.drain(1.0, hands_over=True)
        self.mover.drain(lambda: self._finish_all(then))

    def _finish_all(self, then: Callable[[], None]) -> None:
        self.engine.drain()
        self.gate.drain(1.0)
        self.world.call(_POLL_S, self.life, self._finish, then, self.world.now_s + 1.0)

    def _finish(self, then: Callable[[], None], deadline_s: float) -> None:
        if self.engine.pending() and self.world.now_s < deadline_s:
            self.world.call(_POLL_S, self.life, self._finish, then, deadline_s)
            return
        self.engine.stop()
        self._stopped = True
        self.store.stop()
        if self._slow_stop_s:  # what comes meanwhile is refused
            delay_s = self.world.rng.random() * self._slow_stop_s
            self.world.call(delay_s, self.life, self._end_streams, then)
        else:
            self._end_streams(then)

    def _end_streams(self, then: Callable[[], None]) -> None:
        self.gate.finish()
        self.world.call(0.001, self.life, then)

    def is_curt(self) -> bool:
        """True if the next message is refused without saying to whom."""
        return self.curt > 0 and self.world.rng.random() < self.curt

    # -- the threads

    def _after_event(self) -> None:
        """What the process's threads see of an event that has just happened."""
        self.loop.turn()
        if len(self.engine._inbox) and not self._stopped:
            self._schedule_tick(self.world.rng.random() * self._tick_s)
        if self.ends:
            self.ends = [end for end in self.ends if end.flush()]
        if self.calls:
            for call in self.calls:
                call.flush()
            self.calls = [call for call in self.calls if not call.ended]

    def _schedule_tick(self, delay_s: float) -> None:
        event = self._tick_event
        if event is not None and event.action is not None:
            if event.at_s <= self.world.now_s + delay_s:
                return
            event.call_off()
        self._tick_event = self.world.call(delay_s, self.life, self._tick)

    def _tick(self) -> None:
        self._tick_event = None
        if self._stopped:
            return
        engine = self.engine
        try:
            with self._off_loop():
                engine.tick()
        except AssertionError as error:
            self.oracle.fail(f"integrity: {error}")
        self.oracle.ticked(self)
        self._schedule_tick(engine._idle_for_s() or self.world.rng.random() * self._tick_s)

    def run_threads(self) -> None:
        """The engine and the store have a turn now, in the middle of an event of the loop."""
        if self._stopped:
            return
        for event in (self._tick_event, self._store_event):
            if event is not None:
                event.call_off()
        self._tick()
        self._turn_store()

    @contextmanager
    def _off_loop(self) -> Iterator[None]:
        before, self.on_loop = self.on_loop, False
        try:
            yield
        finally:
            self.on_loop = before

    def _wake_store(self) -> None:
        delay_s = self.world.rng.random() * self.storage.slow_s
        event = self._store_event
        if event is not None:
            if event.at_s <= self.world.now_s + delay_s:
                return
            event.call_off()
        self._store_event = self.world.call(delay_s, self.life, self._turn_store)

    def _turn_store(self) -> None:
        self._store_event = None
        with self._off_loop():
            self.store.run_pending()
        if self._store_event is not None:
            self._store_event.call_off()
        self._store_event = self.world.call(
            max(self.store.idle_s, 0.001), self.life, self._turn_store
        )


class Replica:
    """A place where a server runs, one life after the other."""

    def __init__(
        self, world: World, name: str, storage: Storage, oracle: Oracle, limits: EngineLimits
    ) -> None:
        self.world = world
        self.name = name
        self.storage = storage
        self.oracle = oracle
        self.limits = limits
        self.model = FoldModel()
        # How long it takes to come back.
        self.restart_s = 0.0
        # How long streams stay open at most after the engine has stopped.
        self.slow_stop_s = 0.0
        self.process: Process | None = None
        self.draining = False
        # Where its clients and the other replicas find it.
        self.address = name
        self.in_fleet = False
        # Some texts take long to become tokens.
        self.slow_prompts = False
        # The loop's thread may be stopped just after it has submitted a Bind.
        self.stops_after_binds = False
        # It is not started again.
        self.stays_away = False

    @property
    def up(self) -> bool:
        """True if a process runs here and is not about to end."""
        return self.process is not None and not self.draining

    def start(self) -> None:
        """A new process."""
        if self.process is None:
            self.world.note(self.name, "starts")
            self.draining = False
            self.process = Process(self)
            # A later life may compute otherwise, as another device or library would.
            self.model = FoldModel(self.oracle.drift)

    def crash(self) -> None:
        """kill -9."""
        if self.process is not None:
            self._end("dies")

    def drain(self) -> None:
        """SIGTERM."""
        if self.process is not None and not self.draining:
            self.world.note(self.name, "drains")
            self.draining = True
            self.process.drained(self._exited)

    def _exited(self) -> None:
        self._end("exits")

    def _end(self, how: str) -> None:
        """The process is gone; what it had open breaks."""
        process, self.process, self.draining = self.process, None, False
        assert process is not None
        self.world.note(self.name, how)
        self.world.end(process.life)
        for connection in process.connections:
            connection.break_off(late=False)
        if not self.stays_away:
            self.world.call(self.restart_s, NATURE, self.start)

    def freeze(self) -> None:
        """SIGSTOP."""
        if self.process is not None and not self.process.life.frozen:
            self.world.note(self.name, "freezes")
            self.world.freeze(self.process.life)
            for connection in self.process.connections:
                connection.go_silent()

    @property
    def commits(self) -> bool:
        """A commit waits for its store's thread."""
        return self.process is not None and bool(self.process.store._queue._commits)

    def thaw(self) -> None:
        """SIGCONT."""
        if self.process is not None and self.process.life.frozen:
            self.world.note(self.name, "thaws")
            self.world.thaw(self.process.life)


def limits_of(slots: int, inbox_commands: int) -> EngineLimits:
    """Small numbers, so that every limit is met."""
    return EngineLimits(
        slots=slots,
        max_batch=4,
        chunk_steps=4,
        window_steps=WINDOW_STEPS,
        inbox_commands=inbox_commands,
        idle_ttl_s=60.0,
        park_after_s=PARK_AFTER_S,
        durable_steps=DURABLE_STEPS,
        durable_s=0.02,
        max_sequence_steps=64,
        max_generate_tokens=64,
        retry_after_s=0.05,
    )
