"""A simulated client process: the real client core over the simulated network, and what runs on it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from google.rpc.status_pb2 import Status

from carousel._core.attach import AttachCore
from carousel._core.effects import Effects
from carousel._core.faults import error_of
from carousel._core.journal import Journal
from carousel._error_bases import CarouselError, ConnectionLostError, ProtocolViolationError
from carousel_protos.v1 import carousel_pb2 as pb

from .call_places import CallPlaces
from .calls import ClientCall
from .histories import Writer
from .model import DIGITS, RESET, with_resets
from .network import KEEPALIVE_S, Connection, Network, Payload, SilentEnd
from .oracle import Oracle
from .world import NATURE, Event, Life, World

if TYPE_CHECKING:
    from .application import Application
    from .server import Process, Replica

SERVER = "server"
"""The only address that some clients know. The router behind it chooses the replica."""

Route = Callable[[str], "Replica | None"]
"""The replica at an address; None if there is none."""

OUTPUT_ROW_BYTES = DIGITS * 4

Work = Generator[Any, Any, None]
"""An application's thread: yields seconds to sleep, or a ticket to wait for."""


class ClientEnd:
    """The client's end of one stream to an address."""

    def __init__(self, process: ClientProcess, address: str) -> None:
        self.process = process
        self.address = address
        self.life = process.life
        self.connection: Connection | None = None
        self.over = False
        self.heard_s = process.world.now_s

    def take(self, payload: Payload) -> None:
        """A message of the server, or the end of the stream."""
        if self.over:
            return
        self.heard_s = self.process.world.now_s
        if isinstance(payload, bytes):
            self.process.take(self, pb.AttachResponse.FromString(payload))
            return
        self.over = True
        lost = ConnectionLostError("the stream broke")
        self.process.broken(self, error_of(payload) if isinstance(payload, Status) else lost)

    def break_off(self) -> None:
        """The client cancels the stream."""
        self.over = True
        if self.connection is not None:
            self.connection.client_gave_up()

    def give_up_if_silent(self, since_s: float) -> None:
        """The keepalive: nothing was heard since the path or the server fell silent."""
        if not self.over and self.heard_s <= since_s and self.connection is not None:
            self.connection.client_gave_up()
            self.take(None)


class ClientProcess:
    """One life of a client.

    Attributes:
        mends: it opens another stream where one ends.
        writers: by session id, as whom it feeds each session.
    """

    mends = True

    def __init__(
        self,
        world: World,
        network: Network,
        oracle: Oracle,
        name: str,
        route: Route,
        core: AttachCore,
    ) -> None:
        self.world = world
        self.network = network
        self.oracle = oracle
        self.name = name
        self.life = Life(name)
        self.core = core
        self.writers: dict[str, Writer] = {}
        self.lanes: dict[int, Writer] = {}
        self._route = route
        self.places = CallPlaces(core, world)
        self._ends: dict[str, ClientEnd] = {}
        self._timer: Event | None = None
        self._waiting: dict[Any, Work] = {}
        self._ended: set[Any] = set()
        # Addresses to which a stream is open, or about to be.
        self._opening: set[str] = set()
        if not core._addresses.several:
            self.connect(SERVER)

    # -- the streams

    def connect(self, address: str) -> None:
        """Opens a stream to the replica at an address, before the core wants it or after."""
        self._opening.add(address)
        self.world.call(self.network.delay_s(), NATURE, self._arrive, ClientEnd(self, address))

    def _arrive(self, end: ClientEnd) -> None:
        """The call has come to the replica, if there is one."""
        process = self._reach(end, end.address)
        if process is not None:
            end.connection = connection = Connection(self.network, end)
            process.accept(connection)
            if connection.server is not None:
                self.world.call(self.network.delay_s(), self.life, self._connected, end)

    def _reach(self, end: SilentEnd, address: str) -> Process | None:
        """The process that a new stream or call comes to; if there is none, the client hears so."""
        replica = self._route(address)
        process = None if replica is None else replica.process
        silent = process is not None and (
            process.life.frozen or self.network.is_cut(self.name, process.life.name)
        )
        if process is None or silent:
            delay_s = KEEPALIVE_S if silent else self.network.delay_s()
            self.world.call(delay_s, self.life, end.take, None)
            return None
        return process

    def _connected(self, end: ClientEnd) -> None:
        if not end.over:
            self._ends[end.address] = end
            self.world.note(self.name, "is connected", end.address)
            self.perform(self.core.connected(end.address))

    def take(self, end: ClientEnd, response: pb.AttachResponse) -> None:
        """A server says something."""
        if self.oracle.drift and response.HasField("outputs"):
            self._tell_outputs(response.outputs)
        try:
            self.perform(self.core.receive(end.address, response, self.world.now_s))
        except ProtocolViolationError as error:
            self.oracle.fail(f"{self.name} does not understand the server: {error}")
        except CarouselError as error:  # it breaks the stream off, and mends that
            end.break_off()
            self.broken(end, error)

    def _tell_outputs(self, outputs: pb.BlockResult) -> None:
        width = len(outputs.outputs) // max(len(outputs.handles) * outputs.steps, 1)
        for i, (handle, first) in enumerate(zip(outputs.handles, outputs.first_seqs, strict=True)):
            lane = self.core._bindings.lanes.get(handle)
            if lane is None or not lane.listens:
                continue
            begin = i * outputs.steps
            rows = [
                outputs.outputs[j * width : (j + 1) * width]
                for j in range(begin, begin + outputs.steps)
            ]
            self.oracle.heard(self.lanes[handle], first, rows)

    def broken(self, end: ClientEnd, error: CarouselError) -> None:
        """A stream is over."""
        self.world.note(self.name, "lost its stream:", end.address, type(error).__name__)
        self._ends.pop(end.address, None)
        self._opening.discard(end.address)
        self.perform(self.core.broken(end.address, error, self.world.now_s))

    def perform(self, effects: Effects) -> None:
        """Does what the core says."""
        for address, requests in effects.send.items():
            for request in requests:
                self._send(address, request)
        for ticket in effects.ended:
            self._end_ticket(ticket)
        for address, delay_s in effects.connect.items():
            if address not in self._opening:
                self._opening.add(address)
                self.world.call(delay_s, self.life, self.connect, address)
        for address in effects.leave:
            self._opening.discard(address)
            if (end := self._ends.pop(address, None)) is not None:
                end.break_off()
        if effects.wake_at_s is not None:
            if self._timer is not None:
                self._timer.call_off()
            delay_s = max(effects.wake_at_s - self.world.now_s, 0.0)
            self._timer = self.world.call(delay_s, self.life, self._due)

    def _due(self) -> None:
        self._timer = None
        self.perform(self.core.due(self.world.now_s))

    def _send(self, address: str, request: pb.AttachRequest) -> None:
        end = self._ends.get(address)
        if end is None or end.connection is None:
            return
        if request.HasField("block"):
            block, n = request.block, request.block.steps
            inputs = np.frombuffer(block.inputs, "<i4").tolist()
            words = with_resets(inputs, block.resets)
            for i, (handle, first) in enumerate(zip(block.handles, block.first_seqs, strict=True)):
                self.oracle.sent(self.lanes[handle], first, words[i * n : (i + 1) * n])
        end.connection.to_server.send(request.SerializeToString())

    def hang_up(self) -> None:
        """The process is gone, and its host says so to whoever it was connected with."""
        for connection in list(self.network.connections):
            if connection.client.life is self.life:
                connection.client_gave_up()

    # -- applications

    def spawn(self, work: Work, delay_s: float = 0.0) -> None:
        """Starts an application's thread."""
        self.world.call(delay_s, self.life, self._go_on, work, None)

    def bind(
        self, writer: Writer, target: str | pb.OpenSessionRequest, journal: Journal | None = None
    ) -> Any:
        """Binds a session; the ticket."""
        self.writers[writer.session.id] = writer
        self.world.note(self.name, "attaches", writer.session.id)
        ticket, effects = self.core.bind(target, journal=journal, now_s=self.world.now_s)
        self.lanes[ticket.lane.handle] = writer
        self.perform(effects)
        return ticket

    def submit(self, lanes: Sequence[Any], tokens: Sequence[Sequence[int]]) -> Any:
        """Hands in the next steps of sessions; the ticket."""
        words = np.asarray(tokens, "<i4")
        inputs = (words % RESET).view(np.uint8).reshape(len(lanes), -1, 4)
        flags = (words >= RESET).astype(np.uint8)
        resets = flags if flags.any() else None
        ticket, effects = self.core.submit(lanes, inputs, OUTPUT_ROW_BYTES, resets=resets)
        self.perform(effects)
        return ticket

    def generate(self, request: pb.GenerateRequest, lane: Any) -> ClientCall:
        """Opens a Generate call; its inbox fills."""
        call = ClientCall(self, self.places.of(request.session_id, lane))
        self.world.call(self.network.delay_s(), NATURE, self._arrive_call, call, request)
        return call

    def _arrive_call(self, call: ClientCall, request: pb.GenerateRequest) -> None:
        process = self._reach(call, call.address)
        if process is not None:
            call.connection = Connection(self.network, call)
            process.accept_call(request, call.connection)

    def unbind(self, lane: Any, *, close: bool) -> Any:
        """Gives a session back."""
        ticket, effects = self.core.unbind(lane, close=close)
        self.perform(effects)
        return ticket

    def wake(self, call: ClientCall) -> None:
        """Something has come for whoever waits for a call."""
        work = self._waiting.pop(call, None)
        if work is not None:
            self.world.call(0.0, self.life, self._go_on, work, call)

    def _end_ticket(self, ticket: Any) -> None:
        work = self._waiting.pop(ticket, None)
        if work is None:
            self._ended.add(ticket)
        else:
            self.world.call(0.0, self.life, self._go_on, work, ticket)

    def _go_on(self, work: Work, result: Any) -> None:
        try:
            wanted = work.send(result)
        except StopIteration:
            return
        if isinstance(wanted, float):
            self.world.call(wanted, self.life, self._go_on, work, None)
        elif wanted in self._ended or (isinstance(wanted, ClientCall) and wanted.inbox):
            self._ended.discard(wanted)
            self.world.call(0.0, self.life, self._go_on, work, wanted)
        else:
            self._waiting[wanted] = work


class Client:
    """A place where a client runs, one life after the other, with its applications."""

    def __init__(self, name: str, start: Callable[[], ClientProcess]) -> None:
        self.name = name
        self.process = start()
        self.applications: list[Application] = []
        self._start = start

    def run(self, application: Application, delay_s: float) -> None:
        """Lets an application begin."""
        self.applications.append(application)
        self.process.spawn(application.run(self.process), delay_s)

    def crash(self, back_in_s: float) -> None:
        """kill -9; it comes back after a while, and its applications with it."""
        process = self.process
        if not process.life.alive:
            return
        process.world.note(self.name, "dies")
        process.world.end(process.life)
        process.hang_up()
        for application in self.applications:
            if not application.done:
                application.died()
        process.world.call(back_in_s, NATURE, self._come_back)

    def _come_back(self) -> None:
        self.process = process = self._start()
        process.world.note(self.name, "is back")
        for application in self.applications:
            if not application.done:
                process.spawn(application.run(process))
