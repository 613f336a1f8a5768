"""Steps of one session across several tries: what is answered stays answered."""

from __future__ import annotations

import numpy as np

from .tickets import Rows, StepTicket

LATE_ANSWER_S = 1.0
"""Most time by which a client waits longer than the server: so that the server's refusal comes first, which
says that a step has not run.
"""


def patience_s(timeout_s: float) -> float:
    """How long to wait for the answer to something that the server gives `timeout_s`."""
    return timeout_s + min(timeout_s / 4, LATE_ANSWER_S)


class Pieces:
    """The inputs and resets that are left and the outputs so far; uint8[1, steps, row bytes]."""

    def __init__(self, inputs: Rows, resets: Rows | None = None) -> None:
        self.left = inputs
        self.resets_left = resets
        self._outputs: list[Rows] = []

    def take(self, ticket: StepTicket) -> None:
        """Takes the outputs of a try that ended, well or not."""
        answered = ticket.steps if ticket.error is None else ticket.answered_steps
        answered = min(max(answered, 0), ticket.steps)
        self._outputs.append(ticket.outputs[:, :answered])
        self.left = self.left[:, answered:]
        if self.resets_left is not None:
            self.resets_left = self.resets_left[:, answered:]

    def outputs(self) -> Rows:
        """All of them: uint8[1, steps, row bytes]."""
        return self._outputs[0] if len(self._outputs) == 1 else np.concatenate(self._outputs, 1)
