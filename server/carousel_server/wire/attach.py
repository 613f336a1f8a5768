"""Attach: one bidirectional stream for any number of sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.catalog import CatalogPort
from carousel_server.core.errors import CarouselError
from carousel_server.core.futures import done, then
from carousel_server.core.ports import EnginePort, Place
from carousel_server.core.store import SessionKey
from carousel_server.core.types import OpenSpec, SessionRef, SessionView

from .blocks import Blocks, not_bound, too_many_handles
from .call import CallContext, current_call
from .errors import invalid
from .fields import check_seqs, check_session_id
from .gate import Gate
from .messages import Gather, first_message, for_each, parse
from .options import WireOptions
from .outbox import Outbox
from .places import find_engine
from .plain import gather_of
from .seat import Claim, State
from .sessions import open_spec
from .stream import Stream
from .tenants import counted_stream, message_turn
from .turns import Submissions

_MAX_HANDLE = (1 << 32) - 1

_COUNTED = frozenset({"block", "bind"})
"""Messages that count among a tenant's calls."""

_LAST_WORDS_S = 5.0
"""How long a stream that has ended waits for its client to read the rest."""


class Attach:
    """The method Attach."""

    def __init__(self, catalog: CatalogPort, options: WireOptions, gate: Gate) -> None:
        self._catalog = catalog
        self._options = options
        self._gate = gate
        self._gather = gather_of(options, gate)
        # Made by the first call, since they belong to a loop.
        self._submissions: Submissions | None = None

    async def attach(self, requests: AsyncIterator[bytes], context: CallContext) -> None:
        """Attach. When the stream ends, however it ends, its sessions are unbound and live on.

        A client that half-closes says that it wants nothing more, outputs included.
        """
        options = self._options
        outbox = Outbox(options.max_message_bytes, options.max_unsent_bytes)
        tenant = current_call().tenant
        self._submissions = self._submissions or Submissions(asyncio.get_running_loop())
        stream = Stream(self._submissions, outbox, self._gate.metrics, self._catalog, tenant)
        async with counted_stream(self._gate.quotas, tenant):
            with self._gate.admit(stream, tenant):
                await self._converse(stream, requests, context)

    async def _converse(
        self, stream: Stream, requests: AsyncIterator[bytes], context: CallContext
    ) -> None:
        """Reads and writes until the stream's end."""
        outbox = stream.outbox
        conversation = Conversation(stream, self._catalog, self._options, self._gate)
        writer = asyncio.create_task(outbox.write_to(context))
        reader = asyncio.create_task(conversation.read(requests, self._gather))
        ended = asyncio.create_task(outbox.ended.wait())
        try:
            await asyncio.wait((writer, reader, ended), return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                outbox.end(_failure_of(reader))
            stream.close()
            await asyncio.wait_for(writer, _LAST_WORDS_S)
        except TimeoutError:
            raise outbox.unread() from None
        finally:
            stream.close()
            for task in (reader, writer, ended):
                task.cancel()
            await asyncio.gather(reader, writer, ended, return_exceptions=True)


def _failure_of(reader: asyncio.Task[None]) -> CarouselError | None:
    """Why the reader stopped: the client's mistake, or None for its wish. Defects are raised."""
    error = reader.exception()
    if error is None or isinstance(error, CarouselError):
        return error
    raise error


class Conversation:
    """What a client says on one stream: one short method an event."""

    def __init__(
        self,
        stream: Stream,
        catalog: CatalogPort,
        options: WireOptions,
        gate: Gate,
    ) -> None:
        self._stream = stream
        self._catalog = catalog
        self._options = options
        self._gate = gate
        self._blocks = Blocks(stream, options)
        self._tenant = stream.tenant
        self._greeted = False

    async def read(self, requests: AsyncIterator[bytes], gather: Gather | None) -> None:
        """Takes requests until the client half-closes; `gather` may take plain blocks.

        Raises:
            CarouselError: MALFORMED_MESSAGE or MESSAGE_TOO_LARGE; these end the stream, since there is
                no knowing what else the client believes to have said. MESSAGE_TIMEOUT if no Hello comes.
        """
        requests = aiter(requests)
        hello = await first_message(requests, self._options.message_timeout_s)
        if hello is None:
            return
        current_call().heard = True
        self.take(parse(pb.AttachRequest, hello, self._options.max_message_bytes))
        await for_each(requests, self._hear, gather, self._blocks)

    def _hear(self, data: bytes) -> Awaitable[bool] | None:
        """Takes one message at once, if nothing is to be awaited before."""
        quotas = self._gate.quotas
        if (
            self._gate.turns.needed
            or self._tenant in quotas.backlogged.tenants
            or quotas.limits.tenant_calls_per_s
        ):
            return self._hear_in_turn(data)
        self.take(parse(pb.AttachRequest, data, self._options.max_message_bytes))
        has_room = self._stream.outbox.has_room
        return None if has_room.is_set() else has_room.wait()

    async def _hear_in_turn(self, data: bytes) -> bool:
        """Takes one message when it is the tenant's turn, and its quota has one left."""
        await self._gate.turns.turn(self._tenant)
        request = parse(pb.AttachRequest, data, self._options.max_message_bytes)
        if request.WhichOneof("event") in _COUNTED:
            await message_turn(self._gate.quotas, self._tenant)
        self.take(request)
        return await self._stream.outbox.has_room.wait()

    def take(self, request: pb.AttachRequest) -> None:
        """Takes one request. Raises as `read`."""
        event = request.WhichOneof("event")
        if event is None or (event == "hello") == self._greeted:
            raise _out_of_turn(event)
        self._events[event](self, getattr(request, event))

    def _welcome(self, hello: pb.Hello) -> None:
        self._greeted = True
        if hello.follows_moves:
            self._stream.follow_moves()
        welcome = pb.Welcome(
            server_version=self._options.server_version,
            max_handles=self._options.max_handles,
            max_message_bytes=self._options.max_message_bytes,
        )
        self._stream.outbox.put(pb.AttachResponse(welcome=welcome))

    def _block(self, block: pb.Block) -> None:
        if self._gate.refuses_steps(follows=self._stream.follows):
            self._blocks.refuse(block, self._gate.drain_error())
        else:
            self._blocks.submit(block)

    def _bind(self, bind: pb.Bind) -> None:
        try:
            if bind.handle == 0:
                raise invalid("handle", f"must be from 1 to {_MAX_HANDLE}")
            self._gate.refuse_if_draining()
            self._check_free(bind.handle)
            claim = self._claim(bind)
            claim.attach_id, claim.epoch_floor = bind.attach_id, bind.epoch_floor
            self._stream.bind(bind.handle, claim)
        except CarouselError as error:
            self._stream.refuse(bind.handle, error)

    def _claim(self, bind: pb.Bind) -> Claim:
        """The session that a Bind names, or opens."""
        tenant = self._tenant
        match bind.WhichOneof("target"):
            case "session_id":
                key = SessionKey(tenant, check_session_id(bind.session_id))
                floor, take_over = bind.epoch_floor, bind.take_over
                return Claim(key, partial(self._catalog.resume, *key, floor, take_over))
            case "open":
                engine = find_engine(self._catalog, bind.open.model, "open.model")
                most_s = self._options.max_idle_ttl_s
                spec = open_spec(tenant, engine.model, bind.open, most_s)
                spec = replace(spec, take_over=bind.take_over)
                return _opening(self._catalog, engine, spec)
        raise invalid("target", "set session_id or open")

    def _check_free(self, handle: int) -> None:
        stream, limit = self._stream, self._options.max_handles
        if handle in stream.seat_of:
            raise CarouselError("HANDLE_IN_USE", f"handle {handle} is bound on this stream")
        if len(stream.seat_of) >= limit:
            raise CarouselError(
                "TOO_MANY_SESSIONS",
                f"{limit} handles are bound on this stream (max_handles)",
                metadata={"limit": limit},
                retry_after_s=self._options.retry_after_s,
            )

    def _acks(self, acks: pb.Acks) -> None:
        try:
            count, most = len(acks.handles), self._options.max_handles
            if count > most:
                raise too_many_handles(count, most)
            if len(acks.acks) != count:
                raise invalid("acks", f"must be {count}, one per handle")
            seqs = check_seqs(acks.acks, "acks", least=0)
            acked: list[tuple[int, int]] = []
            for handle, seq in zip(acks.handles, seqs, strict=True):
                if (seat := self._stream.held(handle)) is not None:
                    acked.append((seat, seq))
                else:
                    self._stream.refuse(handle, not_bound())
            self._stream.seats.acknowledge(acked)
        except CarouselError as error:
            self._stream.refuse(0, error)

    def _replay(self, replay: pb.Replay) -> None:
        seat = self._stream.held(replay.handle)
        if seat is None:
            self._stream.refuse(replay.handle, not_bound())
        else:
            self._stream.seats.replay(seat)

    def _unbind(self, unbind: pb.Unbind) -> None:
        seat = self._stream.seat_of.get(unbind.handle)
        if seat is None or self._stream.seats.state[seat] is State.CLOSING:
            self._stream.refuse(unbind.handle, not_bound())
        else:
            self._stream.seats.release(seat, close=unbind.close)

    # Of the class: a conversation that held its own methods would be a cycle.
    _events: ClassVar[dict[str, Callable[[Any, Any], None]]] = {
        "hello": _welcome,
        "bind": _bind,
        "unbind": _unbind,
        "block": _block,
        "acks": _acks,
        "replay": _replay,
    }


def _opening(catalog: CatalogPort, engine: EnginePort, spec: OpenSpec) -> Claim:
    """A session that is opened once; if it leaves its row before it is bound, it is looked for."""

    def opened(session: tuple[SessionRef, SessionView]) -> Future[Place]:
        ref, view = session
        claim.find = partial(catalog.resume, spec.tenant, view.id, take_over=spec.take_over)
        return done((engine, ref))

    claim = Claim(
        SessionKey(spec.tenant, ""),
        lambda: then(catalog.open(engine, spec), opened),
        orphan=not spec.session_id,
    )
    return claim


def _out_of_turn(event: str | None) -> CarouselError:
    if event is None:
        message = "a message without its event"
    elif event == "hello":
        message = "a second Hello"
    else:
        message = f"the first message is a {event}, not a Hello"
    return CarouselError("MALFORMED_MESSAGE", message)
