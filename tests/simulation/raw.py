"""A client without an SDK: it says what a script says, and hears the server's words one after the other."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import numpy as np

from carousel._core.faults import error_of
from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.types import Durability

from .histories import Writer
from .model import RESET
from .network import Connection, Network, Payload
from .world import Life

if TYPE_CHECKING:
    from .oracle import Oracle
    from .server import Replica
    from .world import World

_UNASKED = frozenset({"welcome", "drain", "durable"})
"""What a server says by itself; a script hears the rest."""

_MOST_STEPS = 16

Script = Generator[float | None, str, None]
"""Yields seconds to sleep, or None to wait for the next word of the server."""


class RawClient:
    """The client's end of a stream of its own. Ends as soon as that breaks: it is no test of endurance."""

    mends = False

    def __init__(
        self,
        world: World,
        network: Network,
        oracle: Oracle,
        route: Callable[[], Replica],
        session_id: str,
        durability: Durability,
    ) -> None:
        self.life = Life(session_id)
        self.process = self
        self.name = session_id
        self.session_id = session_id
        self.durability = durability
        self.history = oracle.open(session_id, durability, 300.0)
        self.writers = {session_id: Writer(session_id, self.history)}
        self.oracle = oracle
        # It has begun and has not ended; and it waits for the server's next word.
        self.busy = self.waits = False
        self._network = network
        self._world = world
        self._route = route
        self._connection: Connection | None = None
        self._script = self.script()

    def script(self) -> Script:
        """What it does."""
        raise NotImplementedError

    def start(self) -> None:
        """Opens its stream, if there is a server just now."""
        process = self._route().process
        if process is not None and not process.life.frozen:
            self.busy = True
            self._connection = Connection(self._network, self)  # type: ignore[arg-type]
            process.accept(self._connection)
            self._world.call(0.001, self.life, self._go_on, None)

    def take(self, payload: Payload) -> None:
        """What the server says."""
        if not isinstance(payload, bytes):
            self._end()
            return
        response = pb.AttachResponse.FromString(payload)
        if self.waits and response.WhichOneof("event") not in _UNASKED:
            self._go_on(_word(response))

    def give_up_if_silent(self, _since_s: float) -> None:
        """It is patient."""

    def say(self, request: pb.AttachRequest) -> None:
        """Sends a message."""
        assert self._connection is not None
        self._connection.to_server.send(request.SerializeToString())

    def say_block(self, handle: int, first_seq: int, *tokens: int) -> None:
        """Sends steps of the session."""
        words = np.asarray(tokens, "<i4")
        inputs = (words % RESET).tobytes()
        block = pb.Block(handles=[handle], first_seqs=[first_seq], steps=len(tokens), inputs=inputs)
        if (words >= RESET).any():
            block.resets = (words >= RESET).tobytes()
        self.history.tokens = [0] * _MOST_STEPS  # nobody looks at them
        self.say(pb.AttachRequest(block=block))

    def _go_on(self, word: str | None) -> None:
        if not self.life.alive:
            return
        try:
            rest_s = next(self._script) if word is None else self._script.send(word)
        except StopIteration:
            self._end()
            return
        self.waits = rest_s is None
        if rest_s is not None:
            self._world.call(rest_s, self.life, self._go_on, None)

    def _end(self) -> None:
        self.busy = self.waits = False
        self._world.end(self.life)


def _word(response: pb.AttachResponse) -> str:
    """An answer in one word, with what matters of it."""
    kind = str(response.WhichOneof("event"))
    if kind == "outputs":
        return f"outputs {response.outputs.first_seqs[0]} {response.outputs.outputs.hex()}"
    if kind == "bound":
        return f"bound {response.bound.handle} {response.bound.session.applied}"
    if kind == "unbound":
        return f"unbound {response.unbound.handle}"
    if kind == "failure":
        return f"failure {response.failure.handle} {error_of(response.failure.status).reason}"
    return kind
