"""The stages of a model: input, stack and head of each, and a choice between two by the token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that every torch reader knows

from .cells import State
from .kernels import Kernel
from .packing import loop
from .row_functions import Chain, build_chain, positional
from .spec import Architecture, FramesInput
from .stack import RecurrentStack


class Rows(Protocol):
    """What computes a model's rows, before an overlap is added."""

    @property
    def stack(self) -> RecurrentStack:
        """The recurrent part, that of the encoder where there are two."""

    @property
    def unseen_states(self) -> tuple[int, ...]:
        """Places of the states that can become infinite in a step with finite rows."""

    @property
    def batch_invariant(self) -> bool:
        """True if a row's bits are the same in a batch of any size."""

    def step(self, x: Tensor, state: State, slots: Tensor | None = None) -> tuple[Tensor, State]:
        """One step of a batch; see `RecurrentModel.step`. Frames have their context already."""

    def packed(
        self, x: Tensor, sizes: Sequence[int], state: State, wanted: Tensor | None
    ) -> tuple[Tensor, State]:
        """Whole sequences; see `RecurrentModel.packed`."""


class Stage:
    """Input, stack and head, as pure functions on tensors."""

    def __init__(
        self,
        architecture: Architecture,
        tensors: Mapping[str, Tensor],
        stack: RecurrentStack,
        kernel: Kernel,
        device: torch.device,
    ) -> None:
        """`tensors` are named as in `expected_tensors(architecture)`."""
        self.stack = stack
        source, head = architecture.input, architecture.head
        self._embedding = tensors.get("embedding.weight")
        self._front = _front(architecture, tensors, kernel)
        self._head = build_chain(kernel, head.parts, tensors, "head", head.places)
        self._normalization = _normalization(architecture, device)
        self._factor = source.factor if isinstance(source, FramesInput) else None
        by_itself = not any(map(positional, (source.parts, head.parts)))
        self.batch_invariant = stack.batch_invariant and kernel.batch_invariant and by_itself

    @property
    def unseen_states(self) -> tuple[int, ...]:
        """Those of the stack."""
        return self.stack.unseen_states

    def step(self, x: Tensor, state: State, slots: Tensor | None = None) -> tuple[Tensor, State]:
        """One step of a batch."""
        y, state = self.stack.step(self._enter(x), state, slots)
        return self._leave(y), state

    def packed(
        self, x: Tensor, sizes: Sequence[int], state: State, wanted: Tensor | None
    ) -> tuple[Tensor, State]:
        """Whole sequences."""
        y, state = self.stack.sequence(self._enter(x), sizes, state)
        return self._leave(y if wanted is None else y[wanted]), state

    def _enter(self, x: Tensor) -> Tensor:
        if self._embedding is not None:
            x = F.embedding(x, self._embedding).float()
        elif self._normalization is not None:
            mean, std = self._normalization
            x = (x - mean) / std
        elif self._factor is not None:
            x = x * self._factor
        return x if self._front is None else self._front(x)

    def _leave(self, y: Tensor) -> Tensor:
        return y if self._head is None else self._head(y)


class Stages:
    """An encoder, and a decoder that continues its state. Implements `Rows`.

    Each row of a batch runs in the stage of its token. The rows of the encoder are zeros.
    """

    def __init__(self, encoder: Stage, decoder: Stage, first: int, width: int) -> None:
        """The decoder's token b is `first` + b in inputs. Its rows are `width` wide."""
        self.stack = encoder.stack
        self.batch_invariant = encoder.batch_invariant and decoder.batch_invariant
        self._encoder = encoder
        self._decoder = decoder
        self._first = first
        self._width = width

    @property
    def unseen_states(self) -> tuple[int, ...]:
        """All that must be finite, because the zeros of the encoder show nothing."""
        return tuple(n for n, spec in enumerate(self.stack.state_specs) if spec.finite)

    def step(self, x: Tensor, state: State, slots: Tensor | None = None) -> tuple[Tensor, State]:
        """One step of a batch."""
        decoding = x >= self._first
        places = decoding.nonzero()[:, 0]
        if len(places) == len(x):
            return self._decoder.step(x - self._first, state, slots)
        if not len(places):
            _, state = self._encoder.step(x, state, slots)
            return x.new_zeros(len(x), self._width, dtype=torch.float32), state
        encoding = ~decoding
        _, new = _of_some(self._encoder, x, encoding, state, slots)
        y, after = _of_some(self._decoder, x - self._first, decoding, state, slots)
        raw = y.new_zeros(len(x), self._width)
        raw[places] = y
        joined = tuple(tensor.new_empty(len(x), *tensor.shape[1:]) for tensor in new)
        for tensor, one, two in zip(joined, new, after, strict=True):
            tensor[encoding], tensor[places] = one, two
        return raw, joined

    def packed(
        self, x: Tensor, sizes: Sequence[int], state: State, wanted: Tensor | None
    ) -> tuple[Tensor, State]:
        """Whole sequences, step after step: those of a batch change their stage at different times."""
        y, state = loop(self.step, x, sizes, state)
        return y if wanted is None else y[wanted], state


def _of_some(
    stage: Stage, x: Tensor, chosen: Tensor, state: State, slots: Tensor | None
) -> tuple[Tensor, State]:
    """Rows and states after a step of the chosen rows, bool[B]. The others' tokens are of the other stage.

    If bits depend on the size of the batch, all rows run, so that it stays the bucket's.
    """
    if not stage.batch_invariant:
        y, new = stage.step(torch.where(chosen, x, 0), state, slots)
        return y[chosen], tuple(tensor[chosen] for tensor in new)
    if slots is None:
        return stage.step(x[chosen], tuple(tensor[chosen] for tensor in state))
    return stage.step(x[chosen], state, slots[chosen])


def _front(
    architecture: Architecture, tensors: Mapping[str, Tensor], kernel: Kernel
) -> Chain | None:
    source = architecture.input
    if source.projection is not None:
        return kernel.linear(tensors["projection.weight"], tensors.get("projection.bias"))
    return build_chain(kernel, source.front, tensors, "front")


def _normalization(
    architecture: Architecture, device: torch.device
) -> tuple[Tensor, Tensor] | None:
    constants = getattr(architecture.input, "normalization", None)
    if constants is None:
        return None
    return torch.tensor(constants.mean, device=device), torch.tensor(constants.std, device=device)
