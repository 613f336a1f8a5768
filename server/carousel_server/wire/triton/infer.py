"""ModelInfer and ModelStreamInfer: the two methods that step sequences."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from functools import partial

from carousel_protos.triton import inference_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.wire.call import Call, CallContext, current_call
from carousel_server.wire.calls import Context
from carousel_server.wire.errors import named
from carousel_server.wire.gate import Gate
from carousel_server.wire.messages import for_each, parse
from carousel_server.wire.options import WireOptions
from carousel_server.wire.tenants import counted_stream, message_turn

from .asking import Asked, facts_of, understood
from .models import ServedModels
from .plain import PlainRequests
from .stream import Replies
from .tally import Stopwatch

_LAST_WORDS_S = 5.0
"""How long a stream that was ended waits for its client to read what is ready."""


class Inference:
    """Both methods."""

    def __init__(self, models: ServedModels, options: WireOptions, gate: Gate) -> None:
        self._models = models
        self._options = options
        self._gate = gate
        self._plain = PlainRequests(options, gate)

    async def infer(self, data: bytes, _context: CallContext) -> bytes:
        """ModelInfer: one step. A caller that gives up does not take its request back: it runs."""
        began_s, tenant = time.monotonic(), current_call().tenant
        request = parse(pb.ModelInferRequest, data, self._options.max_message_bytes)
        asked = understood(self._models, self._gate, request, streamed=False)
        answer = _Awaited(asked, request.id, Stopwatch(asked.served.tallies, tenant, began_s))
        asked.go(tenant, answer)
        return await answer.reply

    async def stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """ModelStreamInfer. When the stream ends, its sequences go on: another may step them."""
        errors_end = ("triton_grpc_error", "true") in (context.invocation_metadata() or ())
        replies = Replies(self._gate, self._options.max_message_bytes, errors_end=errors_end)
        call = current_call()
        async with counted_stream(self._gate.quotas, call.tenant):
            with self._gate.admit(replies, call.tenant):
                await self._run(requests, replies, call, context)

    async def _run(
        self, requests: AsyncIterator[bytes], replies: Replies, call: Call, context: Context
    ) -> None:
        """Reads and writes until the stream's end."""
        writer = asyncio.create_task(replies.write_to(context))
        reader = asyncio.create_task(self._read(requests, replies, call))
        try:
            await asyncio.wait((writer, reader), return_when=asyncio.FIRST_COMPLETED)
            if reader.done() and not writer.done():
                await self._write_the_rest(reader, writer, replies)
            else:
                await writer
        finally:
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[bytes], replies: Replies, call: Call) -> None:
        """Takes requests until the client half-closes or an error ends the stream.

        Raises:
            CarouselError: MALFORMED_MESSAGE or MESSAGE_TOO_LARGE.
        """
        hear = partial(self._hear, replies, call)
        await for_each(requests, hear, self._plain.gather, (replies, call))

    def _hear(self, replies: Replies, call: Call, data: bytes) -> Awaitable[bool] | None:
        """Takes one request at once, if nothing is to be awaited before."""
        call.heard = True
        began_s = time.monotonic()
        request = parse(pb.ModelInferRequest, data, self._options.max_message_bytes)
        if self._gate.quotas.limits.tenant_calls_per_s:
            return self._hear_in_turn(replies, call, request, data)
        self._ask(replies, call, request, data, began_s)
        return None if replies.has_room else replies.room()

    async def _hear_in_turn(
        self, replies: Replies, call: Call, request: pb.ModelInferRequest, data: bytes
    ) -> bool:
        """Takes one request when the tenant's quota has one left."""
        await message_turn(self._gate.quotas, call.tenant)
        self._ask(replies, call, request, data, time.monotonic())
        return await replies.room()

    def _ask(
        self,
        replies: Replies,
        call: Call,
        request: pb.ModelInferRequest,
        data: bytes,
        began_s: float,
    ) -> None:
        expected = replies.expect(request.id.encode(), len(data))
        try:
            asked = understood(self._models, self._gate, request, streamed=True)
        except CarouselError as error:
            expected.failed(error, 0)
            return
        self._plain.learn(data, asked)
        watch = Stopwatch(asked.served.tallies, call.tenant, began_s)
        expected.of(asked.form, asked.parameters.sequence_id, watch)
        asked.go(call.tenant, expected)

    @staticmethod
    async def _write_the_rest(
        reader: asyncio.Task[None], writer: asyncio.Task[None], replies: Replies
    ) -> None:
        error = reader.exception()
        if error is None:
            replies.close_half()
            await writer
        elif isinstance(error, CarouselError):
            replies.finish(error)
            await asyncio.wait((writer,), timeout=_LAST_WORDS_S)
            raise error
        else:
            raise error


class _Awaited:
    """The answer that a unary call waits for."""

    def __init__(self, asked: Asked, request_id: str, watch: Stopwatch) -> None:
        self._asked = asked
        self._request_id = request_id.encode()
        self._watch = watch
        self.reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def done(self, row: bytes) -> None:
        """Takes the output row."""
        try:
            reply = self._asked.form.write(self._request_id, row)
        except CarouselError as error:
            self.failed(error, 0)
            return
        self._watch.succeeded()
        if not self.reply.done():
            self.reply.set_result(reply)

    def failed(self, error: CarouselError, step: int) -> None:
        """Takes an error."""
        self._watch.failed()
        if step:
            error = CarouselError(
                error.reason, error.message, metadata={**error.metadata, "step": step},
                retry_after_s=error.retry_after_s, field=error.field, seq=error.seq,
            )  # fmt: skip
        if not self.reply.done():
            self.reply.set_exception(
                named(error, *facts_of(self._asked.parameters.sequence_id, step))
            )
