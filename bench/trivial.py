"""A model that computes nothing: its output is its input. A tick of it shows what the engine costs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from carousel_models.kernels import Reference
from carousel_models.spec import FeaturesInput, LayerSpec, Manifest


class Named(NamedTuple):
    """A state, or an output field."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    finite: bool = True


class TrivialModel:
    """Implements what an engine needs of `carousel_models.RecurrentModel`.

    Its rows are `width` float32 numbers, and the state of a session is one.
    """

    causal = plain = batch_invariant = True
    generative = False
    vocabulary = parameters = 0
    unseen_states: tuple[int, ...] = ()
    tokenizer = None

    def __init__(self, width: int, most_rows: int) -> None:
        self.manifest = Manifest(
            name="trivial",
            fingerprint="0" * 64,
            input=FeaturesInput(width=width),
            stack=(LayerSpec(cell="rnn_tanh", hidden=width),),
        )
        self.fingerprint = self.manifest.fingerprint
        self.device = torch.device("cpu")
        self.kernel = Reference()
        self.state_specs = (Named("n", (1,)),)
        self.state_bytes = 4
        self.initial = {"": (torch.zeros(1),)}
        self.output_fields = (("y", torch.float32, (width,)),)
        self._state = torch.zeros(most_rows, 1)

    def step(
        self,
        x: Tensor,
        state: tuple[Tensor, ...],
        slots: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Its input, and a state of zeros."""
        n = x.shape[0]
        return x, (self._state if n == self._state.shape[0] else self._state[:n],)

    def finish(self, raw: Tensor) -> tuple[Tensor, ...]:
        """The row itself."""
        return (raw,)
