"""Models for the fake server, and one face for both clients."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np

import carousel
from carousel.testing import FakeModel

WINDOW = 8


def _running_sum(x: Any, state: Any) -> tuple[Any, Any]:
    state = state + np.float32(x.sum())
    return np.array([state, x[0]], np.float32), state


def _next_byte(x: Any, state: Any) -> tuple[Any, Any]:
    """Logits that favour the next byte."""
    logits = np.zeros(256, np.float32)
    logits[(int(x) + 1) % 256] = 5.0
    return logits, state + 1


def _two_best(x: Any, state: Any) -> tuple[Any, Any]:
    order = np.argsort(-x)[:2]
    return {"values": x[order], "indices": order.astype(np.int32)}, state


def _parity(x: Any, state: Any) -> tuple[Any, Any]:
    return {"y": np.int32(int(x) % 2)}, state


SUM = FakeModel(
    "sum", _running_sum, features=2, outputs=2, initial=np.float32(0), window_steps=WINDOW
)
LETTERS = FakeModel("letters", _next_byte, outputs=256, vocabulary=256, tokenizer="bytes")
TOP = FakeModel(
    "top", _two_best, features=4, fields={"values": ("<f4", (2,)), "indices": ("<i4", (2,))}
)
TAGS = FakeModel(
    "tags",
    _parity,
    fields={"y": ("<i4", ())},
    vocabulary=256,
    tokenizer="bytes",
    labels=("even", "odd"),
    causal=False,
)
MODELS = (SUM, LETTERS, TOP, TAGS)


def sums(rows: Any, start: float = 0.0) -> Any:
    """What `sum` answers to rows [T, 2]: [T, 2]."""
    rows = np.asarray(rows, np.float32)
    return np.stack([start + np.cumsum(rows.sum(1)), rows[:, 0]], 1).astype(np.float32)


class Face:
    """An asynchronous object as if it were a blocking one, so that one test is for both clients."""

    def __init__(self, wrapped: Any, runner: asyncio.Runner) -> None:
        self.wrapped = wrapped
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        if name == "close" and not hasattr(self.wrapped, "close"):
            name = "aclose"
        found = getattr(self.wrapped, name)
        return self._blocking(found) if callable(found) else found

    def __enter__(self) -> Any:
        entered = self._run(self.wrapped.__aenter__())
        return self if entered is self.wrapped else Face(entered, self._runner)

    def __exit__(self, *error: object) -> None:
        self._run(self.wrapped.__aexit__(*error))

    def __iter__(self) -> Iterator[Any]:
        while True:
            try:
                yield self._run(anext(self.wrapped))
            except StopAsyncIteration:
                return

    def _blocking(self, method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            args = tuple([_bare(a) for a in args])

            async def begin() -> Any:
                result = method(*args, **kwargs)
                if inspect.iscoroutine(result):
                    result = await result
                return result

            result = self._runner.run(begin())
            wraps = isinstance(result, AsyncIterator) or type(result).__module__.startswith(
                "carousel._async"
            )
            return Face(result, self._runner) if wraps else result

        return call

    def _run(self, awaitable: Any) -> Any:
        async def wait() -> Any:
            return await awaitable

        return self._runner.run(wait())

    def opened(self) -> Any:
        """The session of an Opening, without its block."""
        return Face(self._run(self.wrapped), self._runner)


def _bare(value: Any) -> Any:
    if isinstance(value, list):
        return [_bare(item) for item in value]
    return value.wrapped if isinstance(value, Face) else value


def opened(session: Any) -> Any:
    """A session of either client that was opened without a block."""
    return session.opened() if isinstance(session, Face) else session


def client_of(kind: str, target: str, runner: asyncio.Runner, **options: Any) -> Any:
    """A client of either kind with a blocking face."""
    if kind == "sync":
        return carousel.Client(target, **options)

    async def make() -> carousel.AsyncClient:
        return carousel.AsyncClient(target, **options)

    return Face(runner.run(make()), runner)
