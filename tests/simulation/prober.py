"""A client that breaks the rules on purpose, without an SDK: repeats, gaps, other inputs for the same seq."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from google.rpc import error_details_pb2 as details

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.types import Durability

from .histories import Writer
from .model import NAME
from .network import Connection, Network, Payload
from .world import NATURE, Life

if TYPE_CHECKING:
    from .oracle import Oracle
    from .server import Replica
    from .world import World

SESSION = "probed"


class Prober:
    """The client's end of a stream of its own. Ends as soon as that breaks: it is no test of endurance."""

    def __init__(
        self, world: World, network: Network, oracle: Oracle, route: Callable[[], Replica]
    ) -> None:
        self.life = Life("prober")
        self.process = self
        history = oracle.open(SESSION, Durability.NONE, 30.0)
        self.writers = {SESSION: Writer("prober", history)}
        self._network = network
        self._world = world
        self._oracle = oracle
        self._route = route
        self._connection: Connection | None = None
        self._script = self._run()
        self._over = False

    def start(self) -> None:
        """Opens its stream, if there is a server just now."""
        process = self._route().process
        if process is not None and not process.life.frozen:
            self._connection = Connection(self._network, self)  # type: ignore[arg-type]
            process.accept(self._connection)
            self._world.call(0.001, NATURE, next, self._script)

    def take(self, payload: Payload) -> None:
        """What the server says."""
        if self._over or not isinstance(payload, bytes):
            self._over = True
            return
        response = pb.AttachResponse.FromString(payload)
        if response.WhichOneof("event") in ("welcome", "drain"):
            return
        try:
            self._script.send(_summary(response))
        except StopIteration:
            self._over = True

    def give_up_if_silent(self, _since_s: float) -> None:
        """It is patient."""

    def _run(self) -> Iterator[str]:
        """What it does: each `yield` waits for the next word of the server."""
        self._say(pb.AttachRequest(hello=pb.Hello(client="prober")))
        open_request = pb.OpenSessionRequest(model=NAME, session_id=SESSION, durability=1, seed=1)
        self._say(pb.AttachRequest(bind=pb.Bind(handle=1, open=open_request)))
        if (yield) != "bound":
            return
        self._block(1, 3, 5)
        first = yield
        if not first.startswith("outputs 1"):
            return
        self._block(1, 3, 5)
        self._expect("a repeated block", (yield), first)
        self._block(1, 3, 6)
        self._expect("another input for step 2", (yield), "SEQUENCE_REUSED")
        self._block(4, 1)
        self._expect("step 4 after step 2", (yield), "SEQUENCE_GAP")
        self._block(3, 1)
        self._expect("step 3", (yield)[:9], "outputs 3")

    def _expect(self, what: str, answer: str, expected: str) -> None:
        if answer not in (expected, "DRAINING"):
            self._oracle.fail(f"R1, R2: {what} was answered with {answer}, not {expected}")

    def _block(self, first_seq: int, *tokens: int) -> None:
        inputs = np.asarray(tokens, "<i4").tobytes()
        block = pb.Block(handles=[1], first_seqs=[first_seq], steps=len(tokens), inputs=inputs)
        self._oracle.histories[SESSION].tokens = [0] * 8  # nobody looks at them
        self._say(pb.AttachRequest(block=block))

    def _say(self, request: pb.AttachRequest) -> None:
        assert self._connection is not None
        self._connection.to_server.send(request.SerializeToString())


def _summary(response: pb.AttachResponse) -> str:
    """An answer in one word, with what matters of it."""
    kind = str(response.WhichOneof("event"))
    if kind == "outputs":
        return f"outputs {response.outputs.first_seqs[0]} {response.outputs.outputs.hex()}"
    if kind == "failure":
        for detail in response.failure.status.details:
            info = details.ErrorInfo()
            if detail.Unpack(info):
                return info.reason
    return kind
