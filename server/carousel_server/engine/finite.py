"""Finds the steps whose numbers are not finite. They must not count: NaN in a state stays there for ever.

A tick pays for a look at its raw outputs, because NaN in a state shows in the raw outputs of the same step.
Which rows are at fault is looked up only if there are any.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from carousel_models import RecurrentModel, StateSpec
from carousel_server.core.types import Int64s


def all_finite(numbers: np.ndarray | Tensor) -> bool:
    """True if all numbers are finite. On a GPU it is False also where their sum is too large."""
    if isinstance(numbers, Tensor):
        if numbers.is_cuda or numbers.dtype is torch.bfloat16:
            return cmath.isfinite(numbers.sum().item())
        numbers = numbers.numpy()
    return bool(np.isfinite(numbers).all())


class FiniteRules(NamedTuple):
    """What of a model's steps must be finite, worked out once.

    Attributes:
        specs: of the states.
        unseen: places of the states that may be spoilt while the outputs are finite.
        plain: the output fields are the raw outputs.
        logarithms: the output fields are their logarithms, which overflow before they do.
    """

    specs: tuple[StateSpec, ...]
    unseen: tuple[int, ...]
    plain: bool
    logarithms: bool

    @classmethod
    def of(cls, model: RecurrentModel) -> FiniteRules:
        """Those of a model."""
        logarithms = model.manifest.output.transform == "log_softmax"
        return cls(tuple(model.state_specs), model.unseen_states, model.plain, logarithms)

    def numbers(self, raw: Tensor) -> Tensor:
        """What has to be finite of raw outputs [..., W]."""
        return torch.log_softmax(raw, dim=-1) if self.logarithms else raw

    def hold(
        self, raw: Tensor, state: Sequence[Tensor] = (), fields: np.ndarray | None = None
    ) -> bool:
        """True if nothing of a step has to be looked at more closely: the usual case, in few calls.

        Args:
            raw: [n, W].
            state: the states after it, [n or more, …] each; empty where none is kept.
            fields: uint8[n, output_row_bytes], what `raw` became on the host, if that is known.
        """
        if fields is not None and self.plain:
            finite = bool(np.isfinite(fields.view(np.float32)).all())
        else:
            finite = all_finite(self.numbers(raw))
        if not (self.unseen and state):
            return finite
        return finite and all(all_finite(state[place][: len(raw)]) for place in self.unseen)


def bad_rows(tensor: Tensor) -> np.ndarray:
    """Which of n rows hold a NaN or an infinity; bool[n]. `tensor` is [n, …] of floats."""
    numbers = tensor.reshape(len(tensor), math.prod(tensor.shape[1:]))
    return np.asarray((~torch.isfinite(numbers).all(dim=1)).cpu())


Drawing = Callable[[], np.ndarray]
"""Gives bool[n]: which rows draw a token from the output of their last step."""


class FiniteSteps:
    """How many steps of each row of a batch may count, once one of them is in doubt.

    A step may count if its state is finite, and its raw output too where somebody gets it: the client of a
    fed row each one, a generation the one that it draws from. So it does not depend on the chunks that the
    steps run in.

    Attributes:
        good: int64[n], leading steps that may count; None if all do.
        faults: what is not finite, by the place of a row of which no step counts.
    """

    def __init__(
        self, rules: FiniteRules, counts: Int64s, fed: np.ndarray, drawing: Drawing
    ) -> None:
        """`fed` and what `drawing` gives: bool[n], rows whose outputs all count, or the last one does."""
        self._rules = rules
        self._counts = counts
        self._fed = fed
        self._drawing = drawing
        self.good: Int64s | None = None
        self.faults: dict[int, str] = {}

    @property
    def whole(self) -> np.ndarray | None:
        """Places of the rows of which all steps count; None if that is all rows."""
        return None if self.good is None else np.flatnonzero(self.good == self._counts)

    def check_step(self, step: int, raw: Tensor, state: Sequence[Tensor]) -> None:
        """Looks at one step of the rows that have it.

        Args:
            step: its place in the batch, from 0.
            raw: [active, W].
            state: the states after it, [active or more, …] each; padding rows come last.
        """
        n = len(raw)
        raw, state = self._rules.numbers(raw), [tensor[:n] for tensor in state]
        last = self._counts[:n] == step + 1
        wanted = self._fed[:n] | (self._drawing()[:n] & last)
        bad = (bad_rows(raw) & wanted) | self._spoilt(state)
        if not bad.any():
            return
        good = self._good()
        for place in np.flatnonzero(bad & (good[:n] > step)).tolist():
            self._end(place, step, raw[place], state)

    def check_packed(self, raw: Tensor, there: np.ndarray, state: Sequence[Tensor]) -> None:
        """Looks at all steps of a batch: raw [rows, W] packed by time, where `there` bool[steps, n] is true.

        For a model without unseen states.
        """
        raw = self._rules.numbers(raw)
        bad = np.zeros_like(there)
        bad[there] = bad_rows(raw)
        lasts = bad[self._counts - 1, np.arange(len(self._counts))]
        self._judge(bad, lasts, raw, state, there)

    def check_lasts(self, raw: Tensor, state: Sequence[Tensor]) -> None:
        """Looks at the last step of each row: raw [n, W]. For a batch of generations, likewise."""
        raw = self._rules.numbers(raw)
        self._judge(None, bad_rows(raw), raw, state, None)

    def _judge(
        self,
        bad: np.ndarray | None,
        lasts: np.ndarray,
        raw: Tensor,
        state: Sequence[Tensor],
        there: np.ndarray | None,
    ) -> None:
        spoilt, drawing = self._spoilt(state), self._drawing()
        places = None if there is None else np.cumsum(there).reshape(there.shape) - 1
        for place, count in enumerate(self._counts.tolist()):
            if bad is not None and self._fed[place]:
                step = int(bad[:, place].argmax()) if bad[:, place].any() else count
            elif spoilt[place]:
                step = count // 2  # which step it was is not known: the first half tells more
            else:
                step = count - int(drawing[place] and lasts[place])
            if step < count:
                row = raw[place] if places is None else raw[int(places[0, place])]
                self._end(place, step, row, state)

    def _end(self, place: int, step: int, raw: Tensor, state: Sequence[Tensor]) -> None:
        self._good()[place] = step
        if step == 0:
            self.faults[place] = fault_of(
                raw, [tensor[place] for tensor in state], self._rules.specs
            )

    def _good(self) -> Int64s:
        if self.good is None:
            self.good = self._counts.copy()
        return self.good

    def _spoilt(self, state: Sequence[Tensor]) -> np.ndarray:
        """Rows with a state that is not finite and has to be; bool[n]."""
        checked = [
            bad_rows(t) for t, spec in zip(state, self._rules.specs, strict=True) if spec.finite
        ]
        return np.asarray(np.any(checked, axis=0)) if checked else np.zeros(len(state[0]), bool)


def fault_of(raw: Tensor, state: Sequence[Tensor] = (), specs: Sequence[StateSpec] = ()) -> str:
    """What is not finite in a row: the first number of its raw output, else of its states."""
    named = [("the output", raw)]
    named += [(f"state {s.name!r}", t) for t, s in zip(state, specs, strict=True) if s.finite]
    for name, tensor in named:
        numbers = tensor.flatten()
        places = (~numbers.isfinite()).nonzero()
        if len(places):
            place = int(places[0])
            kind = "NaN" if bool(numbers[place].isnan()) else "an infinity"
            return f"{name} has {kind} at place {place}"
    raise AssertionError("all numbers of the row are finite")
