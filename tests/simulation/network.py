"""The simulated network: streams that keep their order, are slow, stall one way, and break."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from google.rpc.status_pb2 import Status

from .world import Life, World

if TYPE_CHECKING:
    from .client import ClientProcess

_LEAST_DELAY_S = 0.0002
_FOR_EVER_S = 1e4

KEEPALIVE_S = 0.4
"""After so long without a sign of life the client gives a stream up."""

Payload = bytes | Status | None
"""A message; or the stream's end, with what the server says of it (None: it says nothing)."""


class End(Protocol):
    """One end of a stream."""

    @property
    def life(self) -> Life:
        """The process that it belongs to."""

    def take(self, payload: Payload) -> None:
        """Something has arrived."""


class SilentEnd(End, Protocol):
    """The client's end."""

    @property
    def process(self) -> ClientProcess:
        """The client."""

    def give_up_if_silent(self, since_s: float) -> None:
        """Ends the stream if nothing has arrived since then."""


class Channel:
    """One direction of a stream: like TCP, it delivers in order or not at all."""

    def __init__(self, world: World, delay_s: Callable[[], float]) -> None:
        self._world = world
        self._delay_s = delay_s
        self._receiver: End | None = None
        self._next_s = 0.0
        self.stalled_until_s = 0.0
        self.lost = False

    def opens_to(self, receiver: End) -> None:
        """Who listens."""
        self._receiver = receiver

    def send(self, payload: Payload) -> None:
        """Puts something on its way."""
        if self._receiver is None:
            return
        world = self._world
        at_s = max(world.now_s + self._delay_s(), self._next_s, self.stalled_until_s)
        self._next_s = at_s + 1e-6
        world.call(at_s - world.now_s, self._receiver.life, self._deliver, payload)

    def stall(self, seconds: float) -> None:
        """Nothing that is sent from now on arrives before so long has passed."""
        self.stalled_until_s = max(self.stalled_until_s, self._world.now_s + seconds)

    def _deliver(self, payload: Payload) -> None:
        if not self.lost and self._receiver is not None:
            self._receiver.take(payload)


class Connection:
    """One stream between a client's life and a replica's life.

    Each end learns of the other's end through its channel, or by the keepalive if that says nothing.
    """

    def __init__(self, network: Network, client: SilentEnd) -> None:
        self.network = network
        self.client = client
        self.server: End | None = None
        self.to_server = Channel(network.world, network.delay_s)
        self.to_client = Channel(network.world, network.delay_s)
        self.to_client.opens_to(client)
        network.connections.append(self)

    def serve(self, server: End) -> None:
        """Who serves it."""
        self.server = server
        self.to_server.opens_to(server)

    def client_gave_up(self) -> None:
        """The client thinks that the stream is dead; the server hears so behind all that was sent before."""
        self.to_client.lost = True
        self.to_server.send(None)
        self._forget()

    def server_ended(self, status: Status | None) -> None:
        """The server has ended the stream, behind all that it had said."""
        self.to_client.send(status)
        self._forget()

    def break_off(self, *, late: bool) -> None:
        """The path is gone. What was on its way is lost, or (`late`) still arrives at the server."""
        self.to_client.lost = True
        world = self.network.world
        world.call(self.network.delay_s(), self.client.life, self.client.take, None)
        if late:
            self.to_server.stall(world.rng.random())
            self.to_server.send(None)
        elif self.server is not None:
            self.to_server.lost = True
            delay_s = world.rng.random() * KEEPALIVE_S
            world.call(delay_s, self.server.life, self.server.take, None)
        self._forget()

    def go_silent(self, on_its_way_s: float = 0.0) -> None:
        """Nothing comes from the server any more; the client notices by its keepalive.

        What was sent before may still arrive within `on_its_way_s`.
        """
        world = self.network.world
        since_s = world.now_s + on_its_way_s
        delay_s = on_its_way_s + KEEPALIVE_S
        world.call(delay_s, self.client.life, self.client.give_up_if_silent, since_s)

    def _forget(self) -> None:
        if self in self.network.connections:
            self.network.connections.remove(self)


class Network:
    """All streams.

    Attributes:
        slow_s: how long a packet takes at most.
        connections: the streams that nobody has ended or given up.
        cuts: names of a client and a replica that do not reach each other.
        splits: those that never do.
        healed: nothing breaks any more.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.slow_s = 0.002
        self.connections: list[Connection] = []
        self.cuts: set[tuple[str, str]] = set()
        self.splits: set[tuple[str, str]] = set()
        self.healed = False

    def delay_s(self) -> float:
        """How long the next packet takes."""
        return _LEAST_DELAY_S + self.world.rng.random() * self.slow_s

    def is_cut(self, client: str, replica: str) -> bool:
        """True if a client does not reach a replica."""
        return (client, replica) in self.cuts | self.splits

    def cut(self, client: str, replica: str, seconds: float) -> None:
        """Nothing gets from one to the other for a while, in either direction."""
        self.cuts.add((client, replica))
        for connection in self.connections:
            if self._names(connection) == (client, replica):
                connection.to_server.stall(seconds)
                connection.to_client.stall(seconds)
                if seconds > KEEPALIVE_S:
                    connection.go_silent(_LEAST_DELAY_S + self.slow_s)

    def split(self, client: str, replica: str) -> None:
        """They never reach each other again."""
        self.splits.add((client, replica))
        self.cut(client, replica, _FOR_EVER_S)

    @staticmethod
    def _names(connection: Connection) -> tuple[str, str]:
        server = connection.server
        return connection.client.process.name, "" if server is None else server.life.name

    def heal(self) -> None:
        """Packets are fast, and stalls are over."""
        self.cuts.clear()
        self.slow_s = 0.002
        for connection in self.connections:
            if self._names(connection) in self.splits:
                continue
            for channel in (connection.to_server, connection.to_client):
                channel.stalled_until_s = 0.0
