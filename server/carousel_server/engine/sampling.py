"""How each row's next token is drawn: the settings of its generation, in arrays by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from carousel_server.core.types import Int32s, Int64s, SamplingSpec
from carousel_server.rows.tokens import Details

from .philox import uniform
from .sampler import SamplingRows, log_probabilities, sample


class Sampling:
    """Draws for rows by their own settings. Used on the engine's thread only."""

    def __init__(self, slots: int) -> None:
        self._temperature = np.ones(slots)
        self._top_k: Int64s = np.zeros(slots, np.int64)
        self._top_p = np.ones(slots)
        self._penalty = np.ones(slots)
        self._seed = np.zeros(slots, np.uint64)

    def set(self, row: int, spec: SamplingSpec, session_seed: int) -> None:
        """Settings for a row's generation; the session's seed where it names none."""
        self._temperature[row] = spec.temperature
        self._top_k[row] = spec.top_k
        self._top_p[row] = spec.top_p
        self._penalty[row] = spec.repetition_penalty
        self._seed[row] = session_seed if spec.seed is None else spec.seed

    def draw(self, rows: Int64s, seqs: Int64s, logits: Tensor, recent: Int32s) -> Tensor:
        """One token per row, int64[n]; keyed by (seed, seq), so that a repeat draws the same (R11).

        Args:
            rows: int64[n].
            seqs: int64[n], the step whose output each token is drawn from.
            logits: float32[n, vocabulary], that output.
            recent: int32[n, r], for the repetition penalty.
        """
        settings = SamplingRows(
            temperature=self._temperature[rows],
            top_k=self._top_k[rows],
            top_p=self._top_p[rows],
            penalty=self._penalty[rows],
            uniform=uniform(self._seed[rows], seqs.astype(np.uint64)),
            recent=recent,
        )
        return sample(logits, settings)


def details_of(asked: Sequence[int | None], logits: Tensor, tokens: Tensor) -> list[Details]:
    """Log-probability of each token and so many alternatives, for the rows that asked."""
    most = max((k for k in asked if k is not None), default=None)
    if most is None:
        return [(None, ())] * len(asked)
    drawn, values, ids = (t.tolist() for t in log_probabilities(logits, tokens, most))
    return [
        (None, ()) if k is None else (drawn[i], tuple(zip(ids[i][:k], values[i][:k], strict=True)))
        for i, k in enumerate(asked)
    ]
