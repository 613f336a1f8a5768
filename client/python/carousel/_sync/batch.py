# Made by generate_sync.py from _async/batch.py: do not edit.
"""Many sessions stepped together: one message each way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from carousel._core.batches import BatchLanes, outputs_of
from carousel._core.pieces import patience_s
from carousel._core.resets import given_resets, with_marks
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

    def step(
        self,
        X: Any,  # noqa: N803
        *,
        resets: Any = None,
        timeout_s: float | None = None,
    ) -> Array:
        """One step of each: X is [n, *row] and the result [n, *output row].

        `resets` is bool[n]: the sessions that start from their initial state, as after their `reset`.

        Raises:
            BatchStepError: some sessions failed; it holds the outputs of the others.
            CarouselError: as `Session.step`, before anything was sent.
        """
        inputs = self._lanes.rows.encode(X, len(self.sessions))[:, None]
        given = given_resets(resets, len(self.sessions))
        self._lanes.rows.check_resets(used=given is not None)
        marks = None if given is None else given[:, None]
        return self._run(inputs, marks, timeout_s, lambda outputs: outputs[:, 0])

    def steps(
        self,
        X: Any,  # noqa: N803
        *,
        resets: Any = None,
        timeout_s: float | None = None,
    ) -> Array:
        """Consecutive steps of each: X is [n, T, *row] and the result [n, T, *output row].

        `resets` is bool[n, T]: the steps that start from the initial state.

        Raises as `step`. Nothing is tried again: which sessions failed is in the error.
        """
        inputs = self._lanes.rows.encode(X, len(self.sessions), None)
        given = given_resets(resets, *inputs.shape[:2])
        self._lanes.rows.check_resets(used=given is not None)
        return self._run(inputs, given, timeout_s, lambda outputs: outputs)

    def _run(
        self, inputs: Rows, resets: Rows | None, timeout_s: float | None, shaped: Any
    ) -> Array:
        batch = self._lanes
        marked = [lane.next_reset.take() for lane in batch.lanes]
        resets = with_marks(resets, marked, inputs.shape[1])
        limit_s = batch.stream.replicas.calls.timeout_s(timeout_s)
        pending: Pending[StepTicket] = Pending(
            lambda core: core.submit(
                batch.lanes, inputs, batch.rows.outputs.row_bytes, limit_s, batch.places, resets
            )
        )
        ticket = batch.stream.ask(pending).wait_done(patience_s(limit_s))
        assert ticket is not None
        return outputs_of(ticket, batch.rows, shaped)
