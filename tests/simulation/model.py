"""A model whose state is a number that remembers everything: order, loss and repetition all show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from carousel_models.kernels import Reference
from carousel_models.kernels.reference import gather
from carousel_models.spec import LayerSpec, Manifest, TokensInput

NAME = "fold"

DIGITS = 10
"""The vocabulary, and the width of an output row."""

RESET = 1 << 8
"""Added to a token whose step starts from the initial state, wherever the simulation speaks of inputs."""

_MANIFEST = Manifest(
    name=NAME,
    fingerprint="f" * 64,
    input=TokensInput(vocabulary=DIGITS, embedding=DIGITS),
    stack=(LayerSpec(cell="rnn_tanh", hidden=DIGITS),),
)
_MODULUS = 4**DIGITS
_PLACES = 4 ** np.arange(DIGITS, dtype=np.int64)


def fold(state: int, token: int) -> int:
    """The state after one more token."""
    if token >= RESET:
        state, token = 0, token - RESET
    return (state * 31 + token + 1) % _MODULUS


def with_resets(tokens: Sequence[int], resets: bytes) -> list[int]:
    """Tokens as the simulation speaks of them; `resets` is a byte of 0 or 1 for each, or empty."""
    flags = resets or bytes(len(tokens))
    return [token + RESET * flag for token, flag in zip(tokens, flags, strict=True)]


def fold_all(tokens: Iterable[int], state: int = 0) -> int:
    """The state after many."""
    for token in tokens:
        state = fold(state, token)
    return state


def row_of(state: int, drift: int = 0) -> bytes:
    """The output row of a state: its digits in base 4, as float32."""
    return np.asarray([(state + drift) // 4**k % 4 for k in range(DIGITS)], "<f4").tobytes()


class Field(NamedTuple):
    """An output field."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class State(NamedTuple):
    """A state tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    finite: bool = True


class FoldModel:
    """Implements `carousel_models.RecurrentModel`: y[t] = digits of s[t] = 31·s[t−1] + x[t] + 1 mod 4^10.

    Its outputs serve as logits, so it can generate. `drift` makes a model that computes otherwise, as another
    device might: for schedules whose replays must be found out.

    Attributes:
        stumbles: so many of the next batches fail.
    """

    def __init__(self, drift: int = 0) -> None:
        self.stumbles = 0
        self.manifest = _MANIFEST
        self.fingerprint = self.manifest.fingerprint
        self.device = torch.device("cpu")
        self.kernel = Reference()
        self.batch_invariant = False
        self.vocabulary = DIGITS
        self.generative = True
        self.causal = True
        self.parameters = 0
        self.state_specs = (State("s", (1,), torch.float32),)
        self.initial = {"": (torch.zeros(1),)}
        self.unseen_states: tuple[int, ...] = ()
        self.plain = True
        self.state_bytes = 4
        self.tokenizer: Any = None
        self.output_fields = (Field("y", torch.float32, (DIGITS,)),)
        self.drift = drift

    def initial_state(self, batch: int, name: str = "") -> tuple[Tensor, ...]:
        """That of the name, for a batch."""
        return tuple(tensor.expand(batch, 1) for tensor in self.initial[name])

    def step(
        self, x: Tensor, state: tuple[Tensor, ...], slots: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step of a batch; the numbers stay below 2^24, so float32 holds them exactly."""
        if self.stumbles:
            self.stumbles -= 1
            raise RuntimeError("the batch is refused")
        before = gather(state, slots)[0].numpy().astype(np.int64)
        after = (before * 31 + x.numpy()[:, None] + 1) % _MODULUS
        shown = (after + self.drift) // _PLACES % 4
        rows = torch.from_numpy(shown.astype(np.float32))
        return rows, (torch.from_numpy(after.astype(np.float32)),)

    def sequence(
        self, x: Tensor, lengths: Tensor, state: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Zeros, which the engine runs after a failed step: the device is well."""
        del state
        assert not x.any()
        return torch.zeros((*x.shape, DIGITS)), self.initial_state(len(lengths))

    def finish(self, raw: Tensor) -> tuple[Tensor, ...]:
        """The row itself."""
        return (raw,)
