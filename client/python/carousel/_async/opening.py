"""A session that opens when it is awaited, or entered with `async with`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any

from .session import AsyncSession


class Opening:
    """Opens the session when awaited (`session = await client.session(…)`) or entered
    (`async with client.session(…) as session`), which also leaves it at the end of the block.
    """

    def __init__(self, opened: Callable[[], Coroutine[Any, Any, AsyncSession]]) -> None:
        self._opened = opened
        self._session: AsyncSession | None = None

    def __await__(self) -> Generator[Any, None, AsyncSession]:
        return self._opened().__await__()

    async def __aenter__(self) -> AsyncSession:
        self._session = await self._opened()
        return self._session

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._session is not None
        await self._session.__aexit__(kind, error, trace)


def opening(opened: Callable[[], Coroutine[Any, Any, AsyncSession]]) -> Opening:
    """A session that `opened` opens, later."""
    return Opening(opened)
