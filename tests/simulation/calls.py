"""A Generate call on the simulated network: the real token queue and engine between the simulation's ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from google.rpc.status_pb2 import Status

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import CancelGenerate, Place, ask
from carousel_server.core.ports import Generate as GenerateCommand
from carousel_server.wire.errors import status_of
from carousel_server.wire.generate import TokenQueue
from carousel_server.wire.prompts import generate_spec
from carousel_server.wire.replies import call_on

from .network import Connection, Payload
from .world import NATURE

if TYPE_CHECKING:
    from .client import ClientProcess
    from .server import Process

T = TypeVar("T")

TENANT = "t"
_MOST_TOKENS = 64
_MOST_TRIES = 4

_SLOW_CHANCE, _SLOW_S, _CUT_CHANCE = 0.4, 0.5, 0.5
"""A long text becomes tokens on another thread. If the path breaks meanwhile, the next try may come first."""


class ClientCall:
    """The client's end of one call: an application waits for what comes into its inbox."""

    def __init__(self, process: ClientProcess, address: str) -> None:
        self.process = process
        self.address = address
        self.life = process.life
        self.connection: Connection | None = None
        self.inbox: deque[Payload] = deque()
        self.over = False
        self.heard_s = process.world.now_s

    def take(self, payload: Payload) -> None:
        """A message, or the end: a Status (empty if all went well), or None if the path broke."""
        if not self.over:
            self.over = not isinstance(payload, bytes)
            self.heard_s = self.process.world.now_s
            self.inbox.append(payload)
            self.process.wake(self)

    def give_up_if_silent(self, since_s: float) -> None:
        """The keepalive."""
        if not self.over and self.heard_s <= since_s and self.connection is not None:
            self.connection.client_gave_up()
            self.take(None)


class ServerCall:
    """The server's end of one Generate call: what `wire.generate.Generate` does, without waiting."""

    def __init__(
        self, process: Process, request: pb.GenerateRequest, connection: Connection
    ) -> None:
        self.life = process.life
        self.connection = connection
        self.ended = False
        self._process = process
        self._request = request
        self._place: Place | None = None
        self._asked_s = process.world.now_s
        self._tries = 0
        self._queue = self._new_queue()
        connection.serve(self)
        process.world.note(
            self.life.name,
            "< generate",
            request.session_id,
            request.first_seq,
            list(request.tokens.ids),
            request.max_tokens,
        )
        try:
            process.gate.refuse_if_draining()
            engine = process.catalog.engines()[0]
            self._spec = at_once(generate_spec(engine, request, _MOST_TOKENS, float("inf")))
            self._find()
        except CarouselError as error:
            self._end(status_of(error))

    def take(self, _payload: Payload) -> None:
        """The client has given up, or the path to it has broken."""
        if not self.ended:
            self.ended = True
            self._give_up()

    def flush(self) -> None:
        """Sends what has come since the last time."""
        queue = self._queue
        while not self.ended and (queue._tokens or queue._end is not None):
            try:
                message, last = at_once(queue.next_message())
            except CarouselError as error:
                if error.reason == "SESSION_PARKED" and self._tries < _MOST_TRIES:
                    self._queue = self._new_queue()
                    self._find()
                else:
                    self._end(status_of(error))
                return
            self._process.world.note(
                self.life.name, "> tokens", [t.seq for t in message.tokens], message.finish_reason
            )
            self._process.oracle.said_tokens(self._request.session_id, message)
            self.connection.to_client.send(message.SerializeToString())
            if last:
                self._end(Status())

    def _new_queue(self) -> TokenQueue:
        return TokenQueue(self._process.loop, self._give_up)  # type: ignore[arg-type]

    def _find(self) -> None:
        self._tries += 1
        found = self._process.catalog.resume(TENANT, self._request.session_id)
        call_on(self._process.loop, found, self._found)  # type: ignore[arg-type]

    def _found(self, reply: Future[Place]) -> None:
        try:
            if (error := reply.exception()) is not None:
                raise error
            self._place = reply.result()
        except CarouselError as refusal:
            self._end(status_of(refusal))
            return
        if self._tries == 1 and self._process.slow_prompts:
            self._read_prompt()
        else:
            self._submit()

    def _read_prompt(self) -> None:
        """The text becomes tokens, perhaps slowly, and the path may break meanwhile."""
        world = self._process.world
        chance = world.prompts
        if chance.random() >= _SLOW_CHANCE:
            self._submit()
            return
        slow_s = chance.random() * _SLOW_S
        world.call(slow_s, self.life, self._submit)
        if chance.random() < _CUT_CHANCE:
            world.call(chance.random() * slow_s, NATURE, self._break_off)

    def _break_off(self) -> None:
        if not (self.ended or self.connection.network.healed):
            self.connection.break_off(late=False)

    def _submit(self) -> None:
        if self.ended or self._place is None:
            return
        engine, ref = self._place
        try:
            engine.submit(GenerateCommand(ref, self._spec, self._queue, asked_s=self._asked_s))
        except CarouselError as refusal:
            self._end(status_of(refusal))

    def _give_up(self) -> None:
        if self._place is not None and not self._queue.ended:
            ask(self._place[0], CancelGenerate(self._place[1], self._queue))

    def _end(self, status: Status) -> None:
        self._process.world.note(self.life.name, "> call over", status.message)
        if not self.ended:
            self.ended = True
            self.connection.server_ended(status)


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        result: T = finished.value
        return result
    raise AssertionError("a coroutine waits where it has no reason to")
