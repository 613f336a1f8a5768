"""Tokens as they come, for the asyncio client."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import grpc

from carousel._core.retelling import Retelling
from carousel._rpc_errors import error_of_call
from carousel.types import FINISH_REASONS, FinishReason, Token, Usage
from carousel_protos.v1 import carousel_pb2 as pb

if TYPE_CHECKING:
    from .client import AsyncClient


class AsyncWithin(NamedTuple):
    """What the session that a generation runs in wants to know of it.

    `begins` gives the first_seq of the request; `ended` gets the session's last step, if it is known.
    """

    begins: Callable[[], int]
    ended: Callable[[int | None], None]


class AsyncGeneration(AsyncIterator[Token]):
    """An asynchronous iterator over the tokens of one generation. Starts at the first token.

    A broken connection is mended, and the text goes on.
    Leaving it early cancels it at the server: by `aclose`, by its `async with` block, or when it is
    no longer referred to, as after a `break` out of `async for token in client.generate(…)`.

    Attributes:
        finish_reason: why it ended; None before its end.
        usage: what it took; None before its end.
    """

    def __init__(
        self,
        client: AsyncClient,
        request: pb.GenerateRequest,
        timeout_s: float | None,
        within: AsyncWithin | None = None,
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None
        self._calls = client.calls
        self._running: list[Any] = []
        self._results: list[pb.GenerateResponse] = []
        self._tokens = _tokens(client, request, timeout_s, within, self._results, self._running)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Token:
        self._calls.check_home()
        try:
            return await anext(self._tokens)
        finally:
            if self._results:
                self._finish(self._results.pop())

    def __del__(self) -> None:
        # The event loop finishes the generator only later, if at all; the server should know now.
        for call in self._running:
            self._calls.cancel(call)

    async def text(self) -> str:
        """The text of all tokens that are still to come."""
        return "".join([token.text async for token in self])

    async def aclose(self) -> None:
        """Cancels what is still to come."""
        self._calls.check_home()
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
    client: AsyncClient,
    request: pb.GenerateRequest,
    timeout_s: float | None,
    within: AsyncWithin | None,
    results: list[pb.GenerateResponse],
    running: list[Any],
) -> AsyncGenerator[Token, None]:
    """Tokens of all the calls that the generation takes, each token once."""
    calls = client.calls
    limit_s = None if timeout_s is None else calls.timeout_s(timeout_s)
    applied: int | None = None
    try:
        request.first_seq = within.begins() if within is not None else 0
        now_s = calls.monotonic()
        retelling = Retelling(
            request,
            calls.options.retries,
            first_answer_by_s=now_s + calls.timeout_s(timeout_s),
            deadline_s=math.inf if limit_s is None else now_s + limit_s,
        )
        while True:
            calls.check_open()
            retelling.call_begins()
            left_s = retelling.left_s(calls.monotonic())
            call = client.services.inference.Generate(
                request, timeout=left_s, metadata=calls.options.metadata
            )
            running.append(call)
            try:
                async for response in call:
                    calls.watch.answered()
                    fresh = retelling.take(response)
                    if response.finish_reason:
                        results.append(response)
                        applied = response.usage.applied
                    for token in fresh:
                        yield token
            except grpc.RpcError as failure:
                if applied is not None:  # all was said; only the goodbye was lost
                    return
                error = error_of_call(failure, on_stream=retelling.started)
                delay_s = retelling.delay_s(error, calls.monotonic())
                if delay_s is None:
                    last = retelling.last_word(error)
                    raise (await calls.disagreement(last) or last) from None
                calls.watch.looking(error)
            else:
                return
            finally:
                calls.cancel(call)
                running.clear()
            await calls.sleep(delay_s)
    finally:
        if within is not None:
            within.ended(applied)
