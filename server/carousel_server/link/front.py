"""A front end's end of the link: what the wire has in place of engines and their catalog.

Everything is on the loop. A refusal that an engine would have raised comes as an answer here: to a command's
future, or to its sink.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import count
from typing import Any

import numpy as np

from carousel_server.core.backlogged import Backlogged
from carousel_server.core.errors import CarouselError, not_served
from carousel_server.core.late_acks import LateAcks
from carousel_server.core.ports import (
    Ack,
    Command,
    EnginePort,
    Fork,
    Import,
    Opened,
    Place,
    StepBlock,
)
from carousel_server.core.quotas import NO_LIMITS, TenantLimits
from carousel_server.core.sinks import current_tick
from carousel_server.core.types import (
    GeneratedToken,
    Int64s,
    ModelView,
    OpenSpec,
    SessionView,
)

from .frames import block_fields, command_fields, make_block, settle
from .pipe import Message, Pipe

_RETRY_AFTER_S = 0.25


class Front:
    """The engines of another process, by name; implements `CatalogPort`.

    Attributes:
        pipe: set once, before anything is asked.
        store_fault: see `CatalogPort.store_fault`; as it was when the other process looked last.
    """

    def __init__(self, views: Sequence[ModelView], limits: TenantLimits = NO_LIMITS) -> None:
        self.pipe: Pipe
        self.store_fault: str | None = None
        self.quotas = FarQuotas(limits, self.ask, self._post)
        self._engines = [FarEngine(self, i, view) for i, view in enumerate(views)]
        self._by_name = {engine.model.name: engine for engine in self._engines}
        self._numbers = count(1)
        self._replies: dict[int, tuple[Future[Any], Callable[[Any], Any]]] = {}
        # A sink lives as long as its stream or call: what comes for it later is for nobody.
        self._sinks: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._sink_numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    # -- CatalogPort

    def engines(self) -> Sequence[EnginePort]:
        """Ordered by model name, as they came."""
        return list(self._engines)

    def engine(self, model: str) -> EnginePort:
        """Raises CarouselError MODEL_NOT_FOUND."""
        found = self._by_name.get(model)
        if found is None:
            raise not_served(model, self._by_name)
        return found

    def locate(self, tenant: str, session_id: str) -> Place | None:
        """Unknown on this side: None sends everybody to `resume`."""
        del tenant, session_id
        return None

    def resume(
        self, tenant: str, session_id: str, epoch_floor: int = 0, take_over: bool = False
    ) -> Future[Place]:
        """See `CatalogPort.resume`."""
        key = tenant, session_id
        return self.ask("resume", *key, epoch_floor, take_over, read=self._place)

    def open(self, engine: EnginePort, spec: OpenSpec) -> Opened:
        """See `CatalogPort.open`."""
        return self.ask("open", self._index(engine), spec)

    def copy(self, engine: EnginePort, command: Import | Fork) -> Opened:
        """See `CatalogPort.copy`."""
        return self.ask("copy", self._index(engine), *command_fields(command))

    def discard(self, tenant: str, session_id: str) -> Future[SessionView]:
        """See `CatalogPort.discard`."""
        return self.ask("discard", tenant, session_id)

    def peek(self, tenant: str, session_id: str) -> Future[SessionView]:
        """See `CatalogPort.peek`."""
        return self.ask("peek", tenant, session_id)

    def stored(self, tenant: str, after: str, limit: int, model: str) -> Future[list[SessionView]]:
        """See `CatalogPort.stored`."""
        return self.ask("stored", tenant, after, limit, model)

    # -- out

    def ask(
        self, verb: str, *arguments: Any, read: Callable[[Any], Any] = lambda value: value
    ) -> Future[Any]:
        """Asks the catalog; `read` makes the answer whole again."""
        self.refuse_if_crowded()
        reply: Future[Any] = Future()
        self.pipe.post("ask", self.number_of(reply, read), verb, arguments)
        return reply

    def _post(self, *message: Any) -> None:
        self.pipe.post(*message)

    def refuse_if_crowded(self) -> None:
        """Raises CarouselError QUEUE_FULL while the other process takes less than it is told."""
        if self.pipe.crowded:
            raise CarouselError(
                "QUEUE_FULL", "the engines' process is behind", retry_after_s=_RETRY_AFTER_S
            )

    def number_of(
        self, reply: Future[Any], read: Callable[[Any], Any] = lambda value: value
    ) -> int:
        """A number for a future that an answer will settle; giving it up withdraws the question."""
        number = next(self._numbers)
        self._replies[number] = reply, read

        def done(reply: Future[Any]) -> None:
            if reply.cancelled() and self._replies.pop(number, None) is not None:
                self.pipe.post("withdraw", number)

        reply.add_done_callback(done)
        return number

    def number_of_sink(self, sink: Any) -> int:
        """The number by which the other process knows a sink."""
        number = self._sink_numbers.get(sink)
        if number is None:
            number = self._sink_numbers[sink] = next(self._numbers)
            self._sinks[number] = sink
            weakref.finalize(sink, self.pipe.post, "gone", number).atexit = False
        return number

    @staticmethod
    def _index(engine: EnginePort) -> int:
        assert isinstance(engine, FarEngine)
        return engine.index

    def _place(self, value: tuple[int, Any]) -> Place:
        return self._engines[value[0]], value[1]

    # -- in

    def take(self, message: Message) -> None:
        """Takes a message of the engines' process."""
        kind, *rest = message
        if kind == "outputs":
            self._outputs(*rest)
        elif kind == "tell":
            self._tell(*rest)
        elif kind == "answer":
            self._answer(*rest)
        elif kind == "backlogged":
            self.quotas.backlogged.set_all(frozenset(rest[0]))
        elif kind == "healthy":
            for engine, healthy in zip(self._engines, rest[0], strict=True):
                engine.healthy = healthy
            self.store_fault = rest[1]
        else:
            raise ValueError(f"no message is a {kind}")

    def _outputs(
        self, number: int, tags: bytes, first_seqs: bytes, steps: int, rows: bytes, began_s: float
    ) -> None:
        current_tick.began_s = began_s
        sink = self._sinks.get(number)
        if sink is not None:
            known = np.frombuffer(tags, np.int64)
            outputs = np.frombuffer(rows, np.uint8).reshape(len(known), -1)
            sink.outputs(known, np.frombuffer(first_seqs, np.int64), steps, outputs)

    def _tell(self, number: int, verb: str, arguments: Sequence[Any]) -> None:
        sink = self._sinks.get(number)
        if sink is None:
            return
        if verb == "tokens":
            arguments = ([GeneratedToken(*token) for token in arguments[0]],)
        elif verb == "returned":
            arguments = (arguments[0], make_block(sink, arguments[1]))
        getattr(sink, verb)(*arguments)

    def _answer(self, number: int, value: Any, error: CarouselError | None) -> None:
        asked = self._replies.pop(number, None)
        if asked is not None:
            reply, read = asked
            settle(reply, read(value) if error is None else None, error)


class FarEngine:
    """One engine of the other process; implements `EnginePort`.

    Attributes:
        index: its place among the engines.
        model: what it serves; constant.
        healthy: as it was when the other process looked last, a few times a second.
    """

    def __init__(self, front: Front, index: int, model: ModelView) -> None:
        self._front = front
        self.index = index
        self.model = model
        self.healthy = True
        # Acks that came while the pipe was crowded.
        self._late_acks = LateAcks()

    def submit(self, command: Command) -> None:
        """Sends a command; see `EnginePort.submit`. Other refusals than QUEUE_FULL come as answers."""
        if isinstance(command, StepBlock):
            self._check_room([command])
            self._post_blocks([command])
        elif not isinstance(command, Ack):
            self._check_room([])
            self._post(command)
        elif self._front.pipe.crowded:
            self._late_acks.add(command)
        else:
            self._check_room([])
            self._post(command)

    def submit_steps(self, blocks: Sequence[StepBlock]) -> None:
        """Sends blocks in one message; see `EnginePort.submit_steps`."""
        try:
            self._check_room(blocks)
        except CarouselError as error:
            for block in blocks:
                block.refuse(error)
        else:
            self._post_blocks(blocks)

    def _check_room(self, blocks: Sequence[StepBlock]) -> None:
        """Sends the acks that came late, or raises and keeps those of the blocks that are refused."""
        if self._front.pipe.crowded:
            for block in blocks:
                self._late_acks.add(block)
        self._front.refuse_if_crowded()
        for ack in self._late_acks.take():
            self._post(ack)

    def _post_blocks(self, blocks: Sequence[StepBlock]) -> None:
        number = self._front.number_of_sink
        sent = [(number(block.sink), block_fields(block)) for block in blocks]
        self._front.pipe.post("blocks", self.index, sent)

    def _post(self, command: Command) -> None:
        front = self._front
        owner, reply = getattr(command, "sink", None), getattr(command, "reply", None)
        front.pipe.post(
            "command", self.index,
            0 if owner is None else front.number_of_sink(owner),
            0 if reply is None else front.number_of(reply),
            *command_fields(command),
        )  # fmt: skip

    async def encode_text(self, text: str) -> Int64s:
        """Token ids of a text; see `EnginePort.encode_text`."""
        ids: Int64s = await asyncio.wrap_future(self._front.ask("encode_text", self.index, text))
        return ids

    async def encode_prompt(self, text: str) -> tuple[Int64s, int]:
        """Token ids of a text to go on from; see `EnginePort.encode_prompt`."""
        ids, opening = await asyncio.wrap_future(self._front.ask("encode_prompt", self.index, text))
        return ids, opening


class FarQuotas:
    """The quotas, which the engines' process counts for all front ends together; implements `QuotaPort`."""

    def __init__(
        self, limits: TenantLimits, ask: Callable[..., Future[None]], post: Callable[..., None]
    ) -> None:
        self.limits = limits
        self.backlogged = Backlogged()
        self._ask = ask
        self._post = post

    def call(self, tenant: str) -> Future[None]:
        """See `QuotaPort.call`."""
        return self._ask("call", tenant)

    def open_stream(self, tenant: str) -> Future[None]:
        """See `QuotaPort.open_stream`."""
        return self._ask("open_stream", tenant)

    def close_stream(self, tenant: str) -> None:
        """See `QuotaPort.close_stream`."""
        self._post("stream_closed", tenant)
