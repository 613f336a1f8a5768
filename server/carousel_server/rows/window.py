"""What is in flight: the last steps of each session, inputs and outputs, in two rings."""

from __future__ import annotations

import math

import numpy as np

from carousel_server.core.errors import CarouselError
from carousel_server.core.types import Bytes2D, Float64s, Int64s, ModelView


class Entries:
    """Rows of bytes, one for each entry of the rings. NumPy copies an entry as one item."""

    def __init__(self, entries: int, row_bytes: int) -> None:
        # Zero pages: memory is taken when an entry is first used.
        self._items = np.zeros((entries, row_bytes), np.uint8).view(f"V{row_bytes}")[:, 0]
        self._row_bytes = row_bytes

    def __getitem__(self, at: Int64s) -> Bytes2D:
        """A copy of the entries: uint8[n, k, row bytes] for an index int64[n, k]."""
        return self._items[at].view(np.uint8).reshape(*at.shape, self._row_bytes)

    def __setitem__(self, at: Int64s, rows: np.ndarray) -> None:
        """Writes uint8[n, k, row bytes]."""
        self._items[at] = np.ascontiguousarray(rows).view(self._items.dtype)[..., 0]


class Window:
    """Rings of `steps` entries per slot. Used on the engine's thread only.

    The arrays are read by the index that `at` gives. Only this package writes them. The entry of step `seq`
    is (seq - 1) % steps. A session may have at most `steps` steps beyond its ack, so an entry is overwritten
    only once the output that it held has been acknowledged. Hence: inputs of ack+1 … received are there to
    be run or compared (a repeated seq with other bytes is found), outputs of ack+1 … applied are there to
    be sent again.

    Attributes:
        has_deadlines, has_resets: any row has had a step with one. Else a tick pays for none of this.
    """

    def __init__(self, slots: int, steps: int, input_row_bytes: int, output_row_bytes: int) -> None:
        assert steps & (steps - 1) == 0, "a power of two, so that % is &"
        self.steps = steps
        self._mask = steps - 1
        self._before = np.arange(-1, steps - 1)
        entries = slots * steps
        self.inputs = Entries(entries, input_row_bytes)
        self.outputs = Entries(entries, output_row_bytes)
        # float64[entries]: monotonic instants of arrival, and until when each step of a timed row may start.
        self.arrived_s = np.zeros(entries, np.float64)
        self.deadline_s = np.zeros(entries, np.float64)
        # bool[entries]: steps that start from their session's initial state.
        self.resets = np.zeros(entries, np.bool_)
        # bool[slots]: rows that have had a step with a deadline, or with a reset; the others need no check.
        self.timed = np.zeros(slots, np.bool_)
        self.resetting = np.zeros(slots, np.bool_)
        self.has_deadlines = self.has_resets = False

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
        arrived_s: Float64s,
        deadline_s: Float64s | None = None,
        resets: np.ndarray | None = None,
    ) -> None:
        """Puts inputs uint8[n, k, row bytes] of steps first_seqs … first_seqs+k-1; times float64[n].

        `deadline_s` None is for no deadlines, and `resets` bool[n, k] None for no resets.
        """
        at = self.at(rows, first_seqs, inputs.shape[1])
        self.inputs[at] = inputs
        self.arrived_s[at] = arrived_s[:, None]
        if deadline_s is not None:
            self._begin_timing(rows[(deadline_s < np.inf) & ~self.timed[rows]])
            self.deadline_s[at] = deadline_s[:, None]
        elif self.has_deadlines and self.timed[rows].any():
            self.deadline_s[at] = np.inf
        if resets is not None:
            self.resets[at] = resets
            self.resetting[rows] |= resets.any(axis=1)
            self.has_resets = True
        elif self.has_resets and self.resetting[rows].any():
            self.resets[at] = False

    def _begin_timing(self, rows: Int64s) -> None:
        """These rows have their first step with a deadline. Nothing was written for those before it."""
        if len(rows):
            self.deadline_s.reshape(-1, self.steps)[rows] = np.inf
            self.timed[rows] = self.has_deadlines = True

    def late(self, rows: Int64s, first_seqs: Int64s, steps: int, now: float) -> np.ndarray | None:
        """Which steps may not begin any more; bool[n, steps], or None if all may."""
        if not (self.has_deadlines and self.timed[rows].any()):
            return None
        late = self.deadline_s[self.at(rows, first_seqs, steps)] <= now
        late &= self.timed[rows, None]
        return late if late.any() else None

    def start_over(self, row: int, seq: int) -> None:
        """Step `seq` of a row, which is none of a client, starts from the initial state."""
        self.resets[self.at(np.asarray([row]), np.asarray([seq]), 1)] = True
        self.resetting[row] = self.has_resets = True

    def forget_resets(self, rows: Int64s | int) -> None:
        """The steps of these rows that may still run start from where their sessions are."""
        if self.resetting[rows].any():
            self.resets.reshape(-1, self.steps)[rows] = False

    def resets_in(self, rows: Int64s, first_seqs: Int64s, steps: int) -> np.ndarray | None:
        """Which steps start from the initial state; bool[n, steps], or None if none does."""
        if not (self.has_resets and self.resetting[rows].any()):
            return None
        resets = self.resets[self.at(rows, first_seqs, steps)]
        return resets if resets.any() else None

    def at(self, rows: Int64s, first_seqs: Int64s, steps: int) -> Int64s:
        """The entries int64[n, steps] of steps first_seqs … first_seqs+steps-1 of rows."""
        at = first_seqs[:, None] + self._before[:steps]
        at &= self._mask
        at += (rows * self.steps)[:, None]
        return at


def invalid_rows(model: ModelView, inputs: np.ndarray) -> np.ndarray | None:
    """Which of n rows hold a value that the model does not take; bool[n], or None if none does.

    `inputs` is uint8[n, …] of whole input rows.
    """
    values = inputs.reshape(len(inputs), math.prod(inputs.shape[1:])).view(model.input.dtype)
    tokens = model.input_tokens
    valid = (values >= 0) & (values < tokens) if tokens else np.isfinite(values)
    # A count takes much less time than `all` by rows.
    return None if np.count_nonzero(valid) == valid.size else np.asarray(~valid.all(axis=1))


def invalid_value(model: ModelView, where: str, seq: int = 0) -> CarouselError:
    """The error for a value that the model does not take; `where` names the step."""
    if model.vocabulary:
        message = f"{where} has a token outside 0 … {model.input_tokens - 1}"
        return CarouselError("UNKNOWN_TOKEN", message, field="inputs", seq=seq)
    message = f"{where} has a NaN or an infinity"
    return CarouselError("INPUT_NOT_FINITE", message, field="inputs", seq=seq)
