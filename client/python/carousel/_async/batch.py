"""Many sessions stepped together: one message each way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from carousel._core.batches import Crowd, answer
from carousel._core.pieces import patience_s
from carousel._core.rows import Array
from carousel._core.tickets import Rows

from .session import AsyncSession

if TYPE_CHECKING:
    from .client import AsyncClient


class AsyncBatch:
    """n sessions of one model, in a fixed order. Made by `AsyncClient.batch`."""

    def __init__(self, client: AsyncClient, sessions: Sequence[AsyncSession]) -> None:
        self.sessions = tuple(sessions)
        self._client = client
        self._crowd = Crowd(sessions)

    async def step(self, X: Any, *, timeout_s: float | None = None) -> Array:  # noqa: N803
        """One step of each: X is [n, *row] and the result [n, *output row].

        Raises:
            BatchStepError: some sessions failed; it holds the outputs of the others.
            CarouselError: as `AsyncSession.step`, before anything was sent.
        """
        inputs = self._crowd.rows.encode(X, len(self.sessions))[:, None]
        return await self._run(inputs, timeout_s, lambda outputs: outputs[:, 0])

    async def steps(self, X: Any, *, timeout_s: float | None = None) -> Array:  # noqa: N803
        """Consecutive steps of each: X is [n, T, *row] and the result [n, T, *output row].

        Raises as `step`. Nothing is tried again: which sessions failed is in the error.
        """
        inputs = self._crowd.rows.encode(X, len(self.sessions), None)
        return await self._run(inputs, timeout_s, lambda outputs: outputs)

    async def _run(self, inputs: Rows, timeout_s: float | None, shaped: Any) -> Array:
        crowd = self._crowd
        limit_s = self._client.calls.timeout_s(timeout_s)
        asked = crowd.stream.ask(
            lambda core: core.submit(
                crowd.lanes, inputs, crowd.rows.outputs.row_bytes, limit_s, crowd.places
            )
        )
        assert asked is not None
        await crowd.stream.wait_done(asked, patience_s(limit_s))
        return answer(asked[0], crowd.rows, shaped)
