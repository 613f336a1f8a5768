"""A loaded model: its stages and its output as pure functions on tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from typing import assert_never

import torch
from torch import Tensor

from .cells import State
from .errors import PackageError
from .framing import Framing
from .initial import initial_states, rows_of
from .kernels import Kernel
from .packing import Packing
from .row_functions import RowFunction
from .spec import FramesInput, Manifest, SelectArgmax, SelectFull, SelectTopK
from .stages import Rows
from .tokenizer import Tokenizer

OutputField = tuple[str, torch.dtype, tuple[int, ...]]
"""Name, type (float32 or int32) and shape for one step."""


TRANSFORMS = {
    "identity": RowFunction(lambda raw: raw, positional=False),
    "softmax": RowFunction(partial(torch.softmax, dim=-1), positional=False),
    "sigmoid": RowFunction(torch.sigmoid, positional=True),
    "log_softmax": RowFunction(partial(torch.log_softmax, dim=-1), positional=False),
}
"""One entry for each name in `spec.Transform`."""


class RecurrentModel:
    """Weights on a device, with the functions of the model. It has no state of any session.

    All methods are pure and may run on any thread, under inference_mode or not.

    Attributes:
        manifest: the package's manifest.
        device: where the weights are.
        tokenizer: converts between text and tokens, if the manifest names one.
        stack: the recurrent part, that of the encoder where a decoder continues it.
        kernel: computes its steps, and the linear layers around it.
        parameters: number of stored weights.
        plain: the output fields are the raw rows.
        state_specs: the state tensors of one session. Empty if the model is not causal.
        initial: states with which sessions begin, by name: one tensor [*shape] per state spec. The first has
            the name "", and is that of sessions that choose none.
    """

    def __init__(
        self,
        manifest: Manifest,
        tensors: Mapping[str, Tensor],
        rows: Rows,
        *,
        device: torch.device,
        tokenizer: Tokenizer | None,
        kernel: Kernel,
    ) -> None:
        self.manifest = manifest
        self.device = device
        self.tokenizer = tokenizer
        self.stack = rows.stack
        self._rows = rows
        self.kernel = kernel
        self.parameters = sum(tensor.numel() for tensor in tensors.values())
        self._causal = manifest.causal
        self._framing = Framing(manifest, device)
        self.state_specs = (*rows.stack.state_specs, *self._framing.state_specs)
        self.initial = initial_states(manifest, self.state_specs, tensors, device)
        self._samples = isinstance(manifest.input, FramesInput)
        output = manifest.output
        self.plain = output.transform == "identity" and isinstance(output.select, SelectFull)

    @property
    def fingerprint(self) -> str:
        """Lower-case hexadecimal SHA-256 of architecture and weights."""
        return self.manifest.fingerprint

    @property
    def causal(self) -> bool:
        """True if sessions can stream through it."""
        return self._causal

    @property
    def generative(self) -> bool:
        """True if its rows are logits over tokens that it can be fed."""
        return self.manifest.generative

    @property
    def vocabulary(self) -> int:
        """Number of input tokens, with a decoder those of the encoder. 0 for features."""
        return self.manifest.vocabulary

    @property
    def unseen_states(self) -> tuple[int, ...]:
        """Places in `state_specs` of states that can become infinite in a step with finite raw rows.

        Every other state that must be finite is finite after a step from finite states whose raw row is.
        """
        hidden = self._framing.hidden
        signal = [n for n, spec in enumerate(self.state_specs) if spec.name in hidden]
        return (*self._rows.unseen_states, *signal)

    @property
    def state_bytes(self) -> int:
        """Bytes of state per session."""
        return sum(prod(spec.shape) * spec.dtype.itemsize for spec in self.state_specs)

    @property
    def output_fields(self) -> tuple[OutputField, ...]:
        """The output fields of `finish`, in its order."""
        fields = self.manifest.output.select.fields(self.manifest.output_width)
        return tuple((field.name, getattr(torch, field.dtype), field.shape) for field in fields)

    @property
    def batch_invariant(self) -> bool:
        """True if the bits of a row's step and its output fields are the same in any batch.

        Those of a whole sequence are then the same too, and those of its steps.
        """
        at_the_end = TRANSFORMS[self.manifest.output.transform].positional
        return self.causal and self._rows.batch_invariant and not at_the_end

    def initial_state(self, batch: int, name: str = "") -> State:
        """The state of sessions that begin: one tensor [batch, *shape] per state spec.

        Raises:
            PackageError: the package has no initial state of this name.
        """
        if name not in self.initial:
            known = ", ".join(filter(None, self.initial)) or "the default"
            raise PackageError(f"there is no initial state {name!r}, only {known}")
        return rows_of(self.initial[name], batch)

    def step(self, x: Tensor, state: State, slots: Tensor | None = None) -> tuple[Tensor, State]:
        """One step of a batch.

        Args:
            x: float32[B, features], int64[B] tokens, each in 0 … manifest.input_tokens−1, or samples [B, hop]
                of int16 or float32.
            state: one tensor [B, *shape] per state spec. They are not changed.
            slots: int64[B]. The state's tensors are then [slots, *shape], and row i's state is in row
                slots[i] of each.

        Returns:
            raw float32[B, W], the head's rows, and the new state. With a decoder, a token below `vocabulary`
            is the encoder's, and its row is zeros.

        Raises:
            ValueError: the model is not causal.
        """
        if not self.causal:
            raise ValueError(
                f"model {self.manifest.name!r} is not causal: its outputs depend on later inputs, so "
                "it cannot run step by step; give it whole sequences"
            )
        if self._samples:
            x = x.float()

        def inner(x: Tensor, state: State) -> tuple[Tensor, State]:
            return self._rows.step(x, state, slots)

        return self._framing.step(x, state, slots, inner)

    def sequence(
        self, x: Tensor, lengths: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Whole sequences of different lengths, or the next chunks of them.

        Args:
            x: float32[N, T, features], int64[N, T], or samples [N, T, hop]. Steps after a length are not
                read.
            lengths: int64[N] on the CPU, each 0 … T.
            state: the state before each sequence, [N, *shape] per state spec. None is the initial state.

        Returns:
            raw float32[N, T, W], zero past each length, and each sequence's state after its last step
            (empty if the model is not causal).
        """
        steps = x.shape[1]
        state = self.initial_state(len(lengths)) if state is None else state
        packing = Packing.of(lengths, steps, self.device)
        if not packing.sizes:
            shape = (len(lengths), steps, self.manifest.output_width)
            return torch.zeros(shape, device=self.device), state
        ordered = tuple(tensor[packing.order] for tensor in state)
        raw, ordered = self.packed(packing.pack(x), packing.sizes, ordered)
        new = tuple(tensor[packing.inverse] for tensor in ordered)
        return packing.unpack(raw, steps), new

    def packed(
        self, x: Tensor, sizes: Sequence[int], state: State, wanted: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Whole sequences without padding. `packing` has the order of rows.

        Args:
            x: float32[rows, features], int64[rows] or samples [rows, hop]: `sizes[t]` rows of time t, the
                first ones of those of the time before.
            sizes: descending, none zero.
            state: the state before each sequence, [N, *shape] per state spec, N ≥ sizes[0].
            wanted: int64[n], the rows for the head. None is all.

        Returns:
            raw float32[rows or n, W], and each sequence's state after its last step.
        """
        if self._samples:
            x = x.float()
        # An overlap takes every frame of the head, and so all of them are computed.
        chosen = None if self.manifest.output.overlap_add else wanted

        def inner(x: Tensor, state: State) -> tuple[Tensor, State]:
            return self._rows.packed(x, sizes, state, chosen)

        y, state = self._framing.packed(x, sizes, state, inner)
        return (y if chosen is wanted or wanted is None else y[wanted]), state

    def finish(self, raw: Tensor) -> tuple[Tensor, ...]:
        """Transform and selection.

        Args:
            raw: float32[..., W] from `step` or `sequence`.

        Returns:
            One tensor [..., *shape] per output field, float32 or int32.
        """
        output = self.manifest.output
        raw = TRANSFORMS[output.transform].run(raw)
        match output.select:
            case SelectFull():
                return (raw,)
            case SelectTopK(k=k):
                values, indices = raw.topk(k, dim=-1)
                return values, indices.to(torch.int32)
            case SelectArgmax():
                return (raw.argmax(dim=-1).to(torch.int32),)
            case unknown:
                assert_never(unknown)
