"""Tokens as they come, for the blocking client."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

import grpc

from carousel._core.retelling import Retelling
from carousel._rpc_errors import error_of_call
from carousel.types import FINISH_REASONS, FinishReason, Token, Usage
from carousel_protos.v1 import carousel_pb2 as pb

if TYPE_CHECKING:
    from .client import Client


class Within(NamedTuple):
    """What the session that a generation runs in wants to know of it.

    `begins` gives the first_seq of the request; `ended` gets the session's last step, if it is known, and
    whether the generation came to its end by itself.
    """

    begins: Callable[[], int]
    ended: Callable[[int | None, bool], None]


class Generation(Iterator[Token]):
    """An iterator over the tokens of one generation. Starts at the first `next`.

    A broken connection is mended, and the text goes on.
    Leaving it early cancels it at the server: by `close`, by its `with` block, or when it is no
    longer referred to, as after a `break` out of `for token in client.generate(…)`.

    Attributes:
        finish_reason: why it ended; None before its end.
        usage: what it took; None before its end.
    """

    def __init__(
        self,
        client: Client,
        request: pb.GenerateRequest,
        timeout_s: float | None,
        within: Within | None = None,
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None
        self._calls = client.calls
        # A generator, so that `break`, an error and the end of the last reference run its `finally`.
        # It must not hold this object, or the two would keep each other alive.
        self._results: list[pb.GenerateResponse] = []
        self._tokens = _tokens(client, request, timeout_s, within, self._results)
        # Also at the end of the program, and then before the interpreter stops the threads of gRPC:
        # a cancel after that may wait for ever for a lock that such a thread holds.
        weakref.finalize(self, _close, self._tokens)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Token:
        self._calls.home.check()
        try:
            return next(self._tokens)
        finally:
            if self._results:
                self._finish(self._results.pop())

    def text(self) -> str:
        """The text of all tokens that are still to come."""
        return "".join(token.text for token in self)

    def close(self) -> None:
        """Cancels what is still to come."""
        self._calls.home.check()
        self._tokens.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _finish(self, last: pb.GenerateResponse) -> None:
        self.finish_reason = FINISH_REASONS.get(last.finish_reason, FinishReason.UNKNOWN)
        usage = last.usage
        self.usage = Usage(usage.prompt_tokens, usage.generated_tokens, usage.applied)


def _close(tokens: Generator[Token, None, None]) -> None:
    with suppress(ValueError):  # a thread is just reading it; that ends with the program
        tokens.close()


def _tokens(
    client: Client,
    request: pb.GenerateRequest,
    timeout_s: float | None,
    within: Within | None,
    results: list[pb.GenerateResponse],
) -> Generator[Token, None, None]:
    """Tokens of all the calls that the generation takes, each token once."""
    calls = client.calls
    limit_s = None if timeout_s is None else calls.timeout_s(timeout_s)
    applied: int | None = None
    finished = False
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
            call = client.inference.Generate(
                request, timeout=left_s, metadata=calls.options.metadata
            )
            try:
                for response in call:
                    calls.watch.answered()
                    fresh = retelling.take(response)
                    if response.finish_reason:
                        results.append(response)
                        applied = response.usage.applied
                    yield from fresh
            except grpc.RpcError as failure:
                if applied is not None:  # all was said; only the goodbye was lost
                    finished = True
                    return
                error = error_of_call(failure, on_stream=retelling.started)
                delay_s = retelling.delay_s(error, calls.monotonic())
                if delay_s is None:
                    last = retelling.last_word(error)
                    raise (calls.disagreement(last) or last) from None
                calls.watch.looking(error)
            else:
                finished = True
                return
            finally:
                calls.cancel(call)
            calls.sleep(delay_s)
    finally:
        if within is not None:
            within.ended(applied, finished)
