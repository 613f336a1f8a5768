"""Many sessions stepped together: one message each way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from carousel._core.batches import BatchLanes, outputs_of
from carousel._core.pieces import patience_s
from carousel._core.rows import Array
from carousel._core.tickets import Rows, StepTicket

from .pending import AsyncPending
from .session import AsyncSession


class AsyncBatch:
    """n sessions of one model, in a fixed order. Made by `AsyncClient.batch`.

    Attributes:
        sessions: in this order.
    """

    def __init__(self, sessions: Sequence[AsyncSession]) -> None:
        self.sessions = tuple(sessions)
        self._lanes = BatchLanes(sessions)

    async def step(self, X: Any, *, timeout_s: float | None = None) -> Array:  # noqa: N803
        """One step of each: X is [n, *row] and the result [n, *output row].

        Raises:
            BatchStepError: some sessions failed; it holds the outputs of the others.
            CarouselError: as `AsyncSession.step`, before anything was sent.
        """
        inputs = self._lanes.rows.encode(X, len(self.sessions))[:, None]
        return await self._run(inputs, timeout_s, lambda outputs: outputs[:, 0])

    async def steps(self, X: Any, *, timeout_s: float | None = None) -> Array:  # noqa: N803
        """Consecutive steps of each: X is [n, T, *row] and the result [n, T, *output row].

        Raises as `step`. Nothing is tried again: which sessions failed is in the error.
        """
        inputs = self._lanes.rows.encode(X, len(self.sessions), None)
        return await self._run(inputs, timeout_s, lambda outputs: outputs)

    async def _run(self, inputs: Rows, timeout_s: float | None, shaped: Any) -> Array:
        batch = self._lanes
        limit_s = batch.stream.services.calls.timeout_s(timeout_s)
        pending: AsyncPending[StepTicket] = AsyncPending(
            lambda core: core.submit(
                batch.lanes, inputs, batch.rows.outputs.row_bytes, limit_s, batch.places
            )
        )
        ticket = await batch.stream.ask(pending).wait_done(patience_s(limit_s))
        assert ticket is not None
        return outputs_of(ticket, batch.rows, shaped)
