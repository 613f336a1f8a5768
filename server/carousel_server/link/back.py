"""The engines' end of the link to one front end: does what it asks, tells it what engines say."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from carousel_server.core.catalog import CatalogPort
from carousel_server.core.errors import CarouselError, refusal_of
from carousel_server.core.metering import Readings
from carousel_server.core.ports import (
    CancelGenerate,
    Close,
    EnginePort,
    Generate,
    Infer,
    Open,
    Place,
    StepBlock,
    ask,
)
from carousel_server.core.sinks import current_tick
from carousel_server.core.types import (
    Bytes2D,
    GeneratedToken,
    GenerationEnd,
    Int64s,
    OpenSpec,
    SessionRef,
    SessionView,
)

from .frames import (
    block_fields,
    make_block,
    make_command,
    outcome_of,
    token_fields,
)
from .pipe import Message

Post = Callable[..., None]

_ENCODING: dict[str, Callable[[EnginePort, str], Coroutine[Any, Any, Any]]] = {
    "encode_text": lambda engine, text: engine.encode_text(text),
    "encode_prompt": lambda engine, text: engine.encode_prompt(text),
}


class Back:
    """Commands and questions of one front end. On the loop of the engines' process."""

    def __init__(
        self, catalog: CatalogPort, post: Post, readings: Callable[[], Future[Readings]]
    ) -> None:
        """`readings`: the server's numbers, for front ends that are asked for them."""
        self._catalog = catalog
        self._readings = readings
        self._engines = catalog.engines()
        self._post = post
        self._loop = asyncio.get_running_loop()
        self._sinks: dict[int, FarSteps | FarTokens] = {}
        # What the front end may withdraw.
        self._withdrawable: dict[int, Future[Any]] = {}
        # Openings of sessions without a name of the caller's, not answered yet, and their engines.
        self._nameless: dict[Future[Any], EnginePort] = {}
        # Streams of the front end that the quotas count, by tenant.
        self._streams: Counter[str] = Counter()
        self._end_watch: Callable[[], None] | None = None

    def listening(self) -> None:
        """The front end has begun to listen. From now on it is told which tenants are backlogged."""

        def tell(tenants: frozenset[str]) -> None:
            self._post("backlogged", sorted(tenants))

        self._end_watch = self._catalog.quotas.backlogged.watch(tell)

    def take(self, message: Message) -> None:
        """Takes a message of the front end."""
        kind, *rest = message
        if kind == "blocks":
            self._blocks(*rest)
        elif kind == "command":
            self._command(*rest)
        elif kind == "ask":
            self._ask(*rest)
        elif kind == "gone":
            self._sinks.pop(rest[0], None)
        elif kind == "stream_closed":
            self._close_stream(*rest)
        elif kind == "withdraw":
            asked = self._withdrawable.get(rest[0])
            if asked is not None:
                asked.cancel()
        else:
            raise ValueError(f"no message is a {kind}")

    def close(self) -> None:
        """The front end is gone: what was for it alone ends; its sessions wait for their clients."""
        if self._end_watch is not None:
            self._end_watch()
        for sink in self._sinks.values():
            if isinstance(sink, FarTokens):
                sink.abandon()
        for asked in tuple(self._withdrawable.values()):
            asked.cancel()
        for opening, engine in tuple(self._nameless.items()):
            opening.add_done_callback(partial(_close_unnamed, engine))
        for tenant in tuple(self._streams.elements()):
            self._close_stream(tenant)

    # -- streams

    def _open_stream(self, tenant: str) -> Future[None]:
        opened = self._catalog.quotas.open_stream(tenant)
        if opened.exception() is None:
            self._streams[tenant] += 1
        return opened

    def _close_stream(self, tenant: str) -> None:
        self._streams[tenant] -= 1
        self._catalog.quotas.close_stream(tenant)

    # -- commands

    def _blocks(self, index: int, sent: Sequence[tuple[int, Sequence[Any]]]) -> None:
        name = StepBlock.__name__
        blocks = [make_block(self._sink(number, name), values) for number, values in sent]
        self._engines[index].submit_steps(blocks)

    def _command(self, index: int, sink: int, reply: int, name: str, values: Sequence[Any]) -> None:
        command = make_command(name, values, self._sink(sink, name) if sink else None)
        engine = self._engines[index]
        if reply:
            self._answer_later(reply, command.reply)
        if isinstance(command, Open):
            self._mind_opening(engine, command.spec, command.reply)
        elif isinstance(command, Infer):
            self._withdrawable[reply] = command.reply
        elif isinstance(command, Generate):
            assert isinstance(command.sink, FarTokens)
            command.sink.begun(engine, command.ref)
        ask(engine, command)

    def _sink(self, number: int, command: str) -> FarSteps | FarTokens:
        sink = self._sinks.get(number)
        if sink is None:
            tokens = command in (Generate.__name__, CancelGenerate.__name__)
            sink = (FarTokens if tokens else FarSteps)(number, self._post)
            self._sinks[number] = sink
        return sink

    # -- questions

    def _ask(self, number: int, verb: str, arguments: Sequence[Any]) -> None:
        try:
            reply = self._asked(verb, *arguments)
        except Exception as raised:  # noqa: BLE001 - whoever asked must hear of a defect too
            self._post("answer", number, None, refusal_of(raised))
        else:
            if verb in _ENCODING:
                self._withdrawable[number] = reply
            self._answer_later(number, reply, self._place if verb == "resume" else None)

    def _asked(self, verb: str, *arguments: Any) -> Future[Any]:
        if verb == "readings":
            return self._readings()
        catalog, (first, *rest) = self._catalog, arguments
        if verb == "open":
            engine, (spec,) = self._engines[first], rest
            opened = catalog.open(engine, spec)
            self._mind_opening(engine, spec, opened)
            return opened
        if verb == "copy":
            return catalog.copy(self._engines[first], make_command(*rest))
        if verb in _ENCODING:
            encoded = _ENCODING[verb](self._engines[first], *rest)
            return asyncio.run_coroutine_threadsafe(encoded, self._loop)
        questions: dict[str, Callable[..., Future[Any]]] = {
            "resume": catalog.resume, "peek": catalog.peek, "stored": catalog.stored,
            "discard": catalog.discard,
            "call": catalog.quotas.call, "open_stream": self._open_stream,
        }  # fmt: skip
        return questions[verb](*arguments)

    def _mind_opening(self, engine: EnginePort, spec: OpenSpec, opened: Future[Any]) -> None:
        """Nobody could name the session if the front end died before it heard of it."""
        if not spec.session_id:
            self._nameless[opened] = engine
            opened.add_done_callback(lambda opened: self._nameless.pop(opened, None))

    def _place(self, place: Place) -> tuple[int, SessionRef]:
        return self._engines.index(place[0]), place[1]

    def _answer_later(
        self, number: int, reply: Future[Any], write: Callable[[Any], Any] | None = None
    ) -> None:
        """Answers when the future is settled, on whatever thread; once withdrawn, nobody waits."""

        def answer(reply: Future[Any]) -> None:
            self._withdrawable.pop(number, None)
            if reply.cancelled():
                return
            value, error = outcome_of(reply)
            if error is None and write is not None:
                value = write(value)
            self._post("answer", number, value, error)

        reply.add_done_callback(answer)


def _close_unnamed(engine: EnginePort, opened: Future[Any]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        ask(engine, Close(opened.result()[0]))


class FarSteps:
    """A sink of steps in the front end; implements `StepSink`. Called on engine threads."""

    def __init__(self, number: int, post: Post) -> None:
        self._number = number
        self._post = post

    def outputs(self, tags: Int64s, first_seqs: Int64s, steps: int, rows: Bytes2D) -> None:
        """Sends outputs."""
        number, known, firsts = self._number, tags.tobytes(), first_seqs.tobytes()
        self._post("outputs", number, known, firsts, steps, rows.tobytes(), current_tick.began_s)

    def failures(self, tags: Sequence[int], seqs: Sequence[int], error: CarouselError) -> None:
        """Sends refusals."""
        self._tell("failures", list(tags), list(seqs), error)

    def unbound(self, tag: int, error: CarouselError) -> None:
        """Sends the news that a session has left."""
        self._tell("unbound", tag, error)

    def durable(self, tags: Int64s, seqs: Int64s) -> None:
        """Sends the store's word."""
        self._tell("durable", tags, seqs)

    def away(self, tag: int, session: SessionView) -> None:
        """Sends the news that a session is in the store for now."""
        self._tell("away", tag, session)

    def returned(self, tag: int, block: StepBlock) -> None:
        """Sends back what came too late for a session that was parked."""
        self._tell("returned", tag, block_fields(block))

    def moved(self, tag: int, address: str) -> None:
        """Sends the news that a session was released for another replica."""
        self._tell("moved", tag, address)

    def _tell(self, verb: str, *arguments: Any) -> None:
        self._post("tell", self._number, verb, arguments)


class FarTokens:
    """A sink of tokens in the front end; implements `TokenSink`. Called on engine threads."""

    def __init__(self, number: int, post: Post) -> None:
        self._number = number
        self._post = post
        self._under_way: tuple[EnginePort, SessionRef] | None = None

    def begun(self, engine: EnginePort, ref: SessionRef) -> None:
        """A generation into this sink is under way."""
        self._under_way = engine, ref

    def abandon(self) -> None:
        """Nobody reads any more."""
        under_way = self._under_way  # once: the engine may end it meanwhile
        if under_way is not None:
            engine, ref = under_way
            ask(engine, CancelGenerate(ref, self))

    def tokens(self, tokens: Sequence[GeneratedToken]) -> None:
        """Sends tokens."""
        self._post("tell", self._number, "tokens", (list(map(token_fields, tokens)),))

    def finished(self, end: GenerationEnd) -> None:
        """Sends the end."""
        self._under_way = None
        self._post("tell", self._number, "finished", (end,))

    def failed(self, error: CarouselError) -> None:
        """Sends the end, if it is a bad one."""
        self._under_way = None
        self._post("tell", self._number, "failed", (error,))
