"""What is in flight: the last steps of each session, inputs and outputs, in two rings."""

from __future__ import annotations

import math

import numpy as np

from carousel_server.core.errors import CarouselError
from carousel_server.core.types import Int64s, ModelView


class Window:
    """Rings of `steps` entries per slot. Used on the engine's thread only.

    The arrays are read by the index that `at` gives. Only this package writes them. The entry of step `seq`
    is (seq - 1) % steps. A session may have at most `steps` steps beyond its ack, so an entry is overwritten
    only once the output that it held has been acknowledged. Hence: inputs of ack+1 … received are there to
    be run or compared (a repeated seq with other bytes is found), outputs of ack+1 … applied are there to
    be sent again.
    """

    def __init__(self, slots: int, steps: int, input_row_bytes: int, output_row_bytes: int) -> None:
        assert steps & (steps - 1) == 0, "a power of two, so that % is &"
        self.steps = steps
        self._mask = steps - 1
        # uint8[slots, steps, row bytes]. Zero pages: memory is taken when a row is first used.
        self.inputs = np.zeros((slots, steps, input_row_bytes), np.uint8)
        self.outputs = np.zeros((slots, steps, output_row_bytes), np.uint8)
        # float64[slots, steps]: monotonic instants of arrival, and until when each step may start.
        self.arrived_s = np.zeros((slots, steps), np.float64)
        self.deadline_s = np.zeros((slots, steps), np.float64)
        # bool[slots, steps]: steps that start from their session's initial state.
        self.resets = np.zeros((slots, steps), np.bool_)
        # bool[slots]: rows that have had a step with a deadline, or with a reset; the others need no check.
        self.timed = np.zeros(slots, np.bool_)
        self.resetting = np.zeros(slots, np.bool_)
        # True once any row is `resetting`. Without resets, a tick pays for none of this.
        self._has_resets = False

    @staticmethod
    def fit(slots: int, steps: int, row_bytes: int, budget_bytes: int) -> int:
        """The greatest power of two ≤ `steps` whose rings stay within the budget.

        Raises:
            ValueError: if not even one step per slot fits.
        """
        entry_bytes = slots * (row_bytes + 17)
        most = min(steps, budget_bytes // entry_bytes)
        if most < 1:
            raise ValueError(
                f"{slots} slots with {row_bytes} bytes a step do not fit into window_bytes="
                f"{budget_bytes}: lower `slots` or raise `window_bytes`"
            )
        return 1 << (most.bit_length() - 1)

    def write_inputs(
        self,
        rows: Int64s,
        first_seqs: Int64s,
        inputs: np.ndarray,
        arrived_s: np.ndarray,
        deadline_s: np.ndarray,
        resets: np.ndarray | None = None,
    ) -> None:
        """Puts inputs uint8[n, k, row bytes] of steps first_seqs … first_seqs+k-1; times float64[n].

        `resets` is bool[n, k]; None for none.
        """
        at = self.at(rows, first_seqs, inputs.shape[1])
        self.inputs[at] = inputs
        self.arrived_s[at] = arrived_s[:, None]
        self.deadline_s[at] = deadline_s[:, None]
        self.timed[rows] |= deadline_s < np.inf
        if resets is not None:
            self.resets[at] = resets
            self.resetting[rows] |= resets.any(axis=1)
            self._has_resets = True
        elif self._has_resets and self.resetting[rows].any():
            self.resets[at] = False

    def start_over(self, row: int, seq: int) -> None:
        """Step `seq` of a row, which is none of a client, starts from the initial state."""
        self.resets[self.at(np.asarray([row]), np.asarray([seq]), 1)] = True
        self.resetting[row] = self._has_resets = True

    def forget_resets(self, rows: Int64s | int) -> None:
        """The steps of these rows that may still run start from where their sessions are."""
        if self.resetting[rows].any():
            self.resets[rows] = False

    def resets_in(self, rows: Int64s, first_seqs: Int64s, steps: int) -> np.ndarray | None:
        """Which steps start from the initial state; bool[n, steps], or None if none does."""
        if not (self._has_resets and self.resetting[rows].any()):
            return None
        resets = self.resets[self.at(rows, first_seqs, steps)]
        return resets if resets.any() else None

    def at(self, rows: Int64s, first_seqs: Int64s, steps: int) -> tuple[Int64s, Int64s]:
        """The index [n, steps] at which the arrays have steps first_seqs … first_seqs+steps-1 of rows."""
        return rows[:, None], (first_seqs[:, None] - 1 + np.arange(steps)) & self._mask


def valid_rows(model: ModelView, inputs: np.ndarray) -> np.ndarray:
    """Which of n rows hold valid values only; bool[n]. `inputs` is uint8[n, …] of whole input rows."""
    values = inputs.reshape(len(inputs), math.prod(inputs.shape[1:])).view(model.input.dtype)
    tokens = model.input_tokens
    valid = (values >= 0) & (values < tokens) if tokens else np.isfinite(values)
    return np.asarray(valid.all(axis=1))


def invalid_value(model: ModelView, where: str, seq: int = 0) -> CarouselError:
    """The error for a value that the model does not take; `where` names the step."""
    if model.vocabulary:
        message = f"{where} has a token outside 0 … {model.input_tokens - 1}"
        return CarouselError("UNKNOWN_TOKEN", message, field="inputs", seq=seq)
    message = f"{where} has a NaN or an infinity"
    return CarouselError("INPUT_NOT_FINITE", message, field="inputs", seq=seq)
