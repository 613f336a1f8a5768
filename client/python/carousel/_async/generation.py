"""Tokens as they come, for the asyncio client."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

import grpc

from carousel._core.generation_replay import GenerationReplay
from carousel._rpc_errors import error_of_call
from carousel.types import FINISH_REASONS, FinishReason, Token, Usage
from carousel_protos.v1 import carousel_pb2 as pb

from .primitives import Tokens, cancel_when_dropped
from .replicas import ANY, AsyncReplicas, At


class GenerationOutcome(NamedTuple):
    """How far a generation has come.

    Attributes:
        applied: the session's last step, if it is known.
        has_begun: a token has come.
        has_finished: it came to its end by itself.
    """

    applied: int | None
    has_begun: bool
    has_finished: bool


class AsyncSessionHooks(NamedTuple):
    """Calls into the session that a generation runs in.

    `begins` completes the request, which is about to be sent. `ended` takes it with what became of it.
    """

    begins: Callable[[pb.GenerateRequest], Awaitable[None]]
    ended: Callable[[pb.GenerateRequest, GenerationOutcome], Awaitable[None]]


async def _complete(_request: pb.GenerateRequest) -> None:
    """A session of the generation's own adds nothing to its request."""


async def _forget(_request: pb.GenerateRequest, _outcome: GenerationOutcome) -> None:
    """It ends with the generation."""


OWN_SESSION = AsyncSessionHooks(_complete, _forget)


class AsyncGeneration(AsyncIterator[Token]):
    """An asynchronous iterator over the tokens of one generation. Starts at the first token.

    A broken connection is mended, and the text continues.
    Leaving it early cancels it at the server: by `aclose`, by its `async with` block, or when it is
    no longer referred to, as after a `break` out of `async for token in client.generate(…)`.

    Attributes:
        finish_reason: why it ended; None before its end.
        usage: what it took; None before its end.
    """

    def __init__(
        self,
        replicas: AsyncReplicas,
        request: pb.GenerateRequest,
        timeout_s: float | None,
        session: AsyncSessionHooks | None = None,
        at: At = ANY,
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None
        self._calls = replicas.calls
        # A generator, so that `break`, an error and the end of the last reference run its `finally`.
        # It must not hold this object, or the two would keep each other alive.
        self._results: list[pb.GenerateResponse] = []
        running: list[Any] = []
        hooks = session or OWN_SESSION
        self._tokens = _tokens(replicas, request, timeout_s, hooks, at, self._results, running)
        cancel_when_dropped(self, self._tokens, running, self._calls)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Token:
        self._calls.home.check()
        try:
            return await anext(self._tokens)
        finally:
            if self._results:
                self._finish(self._results.pop())

    async def text(self) -> str:
        """The text of all tokens that are still to come."""
        return "".join([token.text async for token in self])

    async def aclose(self) -> None:
        """Cancels what is still to come."""
        self._calls.home.check()
        await self._tokens.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _finish(self, last: pb.GenerateResponse) -> None:
        self.finish_reason = FINISH_REASONS.get(last.finish_reason, FinishReason.UNKNOWN)
        usage = last.usage
        self.usage = Usage(usage.prompt_tokens, usage.generated_tokens, usage.applied)


async def _tokens(
    replicas: AsyncReplicas,
    request: pb.GenerateRequest,
    timeout_s: float | None,
    session: AsyncSessionHooks,
    at: At,
    results: list[pb.GenerateResponse],
    running: list[Any],
) -> Tokens:
    """Tokens of all the calls that the generation takes, each token once."""
    calls = replicas.calls
    limit_s = None if timeout_s is None else calls.timeout_s(timeout_s)
    applied: int | None = None
    begun = finished = False
    try:
        await calls.retrying(replicas.ready, timeout_s)
        await session.begins(request)
        now_s = calls.monotonic()
        replay = GenerationReplay(
            request,
            calls.options.retries,
            first_answer_by_s=now_s + calls.timeout_s(timeout_s),
            deadline_s=math.inf if limit_s is None else now_s + limit_s,
        )
        while True:
            calls.home.check_open()
            replay.call_begins()
            left_s = replay.left_s(calls.monotonic())
            address = replicas.place(at)
            call = replicas.take(address).inference.Generate(
                request, timeout=left_s, metadata=calls.options.metadata
            )
            running.append(call)
            try:
                async for response in call:
                    replicas.answered(address, at)
                    fresh = replay.take(response)
                    if response.finish_reason:
                        results.append(response)
                        applied = response.usage.applied
                    begun |= bool(fresh)
                    for token in fresh:
                        yield token
            except grpc.RpcError as failure:
                if applied is not None:  # all was received; only the status was lost
                    finished = True
                    return
                error = error_of_call(failure, on_stream=replay.started)
                error = replicas.noted(address, error, at)
                delay_s = replay.delay_s(error, calls.monotonic())
                if delay_s is None:
                    last = replay.final_error(error)
                    raise (await calls.disagreement(last) or last) from None
                calls.watch.looking(error, address)
            else:
                finished = True
                return
            finally:
                calls.cancel(call)
                running.clear()
                replicas.give_back(address)
            await calls.sleep(delay_s)
    finally:
        await session.ended(request, GenerationOutcome(applied, begun, finished))
