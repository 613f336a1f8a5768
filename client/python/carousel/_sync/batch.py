# Made by generate_sync.py from _async/batch.py: do not edit.
"""Many sessions stepped together: one message each way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from carousel._core.batches import BatchLanes, outputs_of
from carousel._core.pieces import patience_s
from carousel._core.rows import Array
from carousel._core.tickets import Rows, StepTicket

from .pending import Pending
from .session import Session


class Batch:
    """n sessions of one model, in a fixed order. Made by `Client.batch`.

    Attributes:
        sessions: in this order.
    """

    def __init__(self, sessions: Sequence[Session]) -> None:
        self.sessions = tuple(sessions)
        self._lanes = BatchLanes(sessions)

    def step(self, X: Any, *, timeout_s: float | None = None) -> Array:  # noqa: N803
        """One step of each: X is [n, *row] and the result [n, *output row].

        Raises:
            BatchStepError: some sessions failed; it holds the outputs of the others.
            CarouselError: as `Session.step`, before anything was sent.
        """
        inputs = self._lanes.rows.encode(X, len(self.sessions))[:, None]
        return self._run(inputs, timeout_s, lambda outputs: outputs[:, 0])

    def steps(self, X: Any, *, timeout_s: float | None = None) -> Array:  # noqa: N803
        """Consecutive steps of each: X is [n, T, *row] and the result [n, T, *output row].

        Raises as `step`. Nothing is tried again: which sessions failed is in the error.
        """
        inputs = self._lanes.rows.encode(X, len(self.sessions), None)
        return self._run(inputs, timeout_s, lambda outputs: outputs)

    def _run(self, inputs: Rows, timeout_s: float | None, shaped: Any) -> Array:
        batch = self._lanes
        limit_s = batch.stream.services.calls.timeout_s(timeout_s)
        pending: Pending[StepTicket] = Pending(
            lambda core: core.submit(
                batch.lanes, inputs, batch.rows.outputs.row_bytes, limit_s, batch.places
            )
        )
        ticket = batch.stream.ask(pending).wait_done(patience_s(limit_s))
        assert ticket is not None
        return outputs_of(ticket, batch.rows, shaped)
