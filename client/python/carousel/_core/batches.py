"""Sessions that are stepped together, for both clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from carousel._error_bases import BatchStepError, ConflictError

from .rows import Array, ModelRows
from .tickets import StepTicket


class BatchLanes:
    """Sessions of one model on one stream; none twice.

    Attributes:
        lanes: theirs, in order.
        places: each one's place, by its handle.
    """

    def __init__(self, sessions: Sequence[Any]) -> None:
        if not sessions:
            raise ConflictError("a batch needs at least one session", reason="BATCH_EMPTY")
        first = sessions[0]
        self.stream: Any = first._stream  # noqa: SLF001 - a session lends its parts to its batch
        self.rows: ModelRows = first._rows  # noqa: SLF001
        self.lanes = [session._lane for session in sessions]  # noqa: SLF001
        self.places = {lane.handle: place for place, lane in enumerate(self.lanes)}
        if len(self.places) < len(sessions):
            raise ConflictError("a session stands twice in the batch", reason="BATCH_REPEATS")
        if any(session.model != first.model for session in sessions):
            raise ConflictError("a batch takes sessions of one model", reason="BATCH_MODELS")
        if any(session._stream is not self.stream for session in sessions):  # noqa: SLF001
            raise ConflictError("a batch takes sessions of one client", reason="BATCH_STREAMS")


def outputs_of(ticket: StepTicket, rows: ModelRows, shaped: Callable[[Array], Array]) -> Array:
    """The outputs of a ticket that ended.

    Raises:
        BatchStepError: of some session.
    """
    outputs = shaped(rows.decode(ticket.outputs.tobytes(), *ticket.outputs.shape[:2]))
    if ticket.errors:
        raise BatchStepError(ticket.errors, outputs)
    return outputs
