"""Many sessions stepped together: one message each way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from carousel._core.batches import Crowd, answer
from carousel._core.pieces import patience_s
from carousel._core.rows import Array
from carousel._core.tickets import Rows, StepTicket

from .asked import Asked
from .session import Session

if TYPE_CHECKING:
    from .client import Client


class Batch:
    """n sessions of one model, in a fixed order. Made by `Client.batch`."""

    def __init__(self, client: Client, sessions: Sequence[Session]) -> None:
        self.sessions = tuple(sessions)
        self._client = client
        self._crowd = Crowd(sessions)

    def step(self, X: Any, *, timeout_s: float | None = None) -> Array:  # noqa: N803
        """One step of each: X is [n, *row] and the result [n, *output row].

        Raises:
            BatchStepError: some sessions failed; it holds the outputs of the others.
            CarouselError: as `Session.step`, before anything was sent.
        """
        inputs = self._crowd.rows.encode(X, len(self.sessions))[:, None]
        return self._run(inputs, timeout_s, lambda outputs: outputs[:, 0])

    def steps(self, X: Any, *, timeout_s: float | None = None) -> Array:  # noqa: N803
        """Consecutive steps of each: X is [n, T, *row] and the result [n, T, *output row].

        Raises as `step`. Nothing is tried again: which sessions failed is in the error.
        """
        inputs = self._crowd.rows.encode(X, len(self.sessions), None)
        return self._run(inputs, timeout_s, lambda outputs: outputs)

    def _run(self, inputs: Rows, timeout_s: float | None, shaped: Any) -> Array:
        crowd = self._crowd
        limit_s = self._client.calls.timeout_s(timeout_s)
        asked: Asked[StepTicket] = Asked(
            lambda core: core.submit(
                crowd.lanes, inputs, crowd.rows.outputs.row_bytes, limit_s, crowd.places
            )
        )
        ticket = crowd.stream.ask(asked).wait_done(patience_s(limit_s))
        assert ticket is not None
        return answer(ticket, crowd.rows, shaped)
