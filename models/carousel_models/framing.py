"""The signal around a stack: earlier samples before each frame, and overlapping frames added after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from .cells import State
from .spec import CONTEXT, OVERLAP, Architecture
from .spectra import WINDOWS
from .stack import StateSpec

Inner = Callable[[Tensor, State], tuple[Tensor, State]]
"""Rows for the stack and its state → frames of the head and the stack's new state."""


class Framing:
    """The states outside of a stack, which come after the stack's own: context, then overlap.

    A model without them has an empty Framing, which passes everything through.

    Attributes:
        state_specs: its states. Both are of float32 and begin with zeros.
        hidden: names of those that may become infinite in a step with finite outputs.
    """

    def __init__(self, architecture: Architecture, device: torch.device) -> None:
        self.state_specs = tuple(map(StateSpec.of, architecture.signal_states))
        widths = {spec.name: spec.shape[0] for spec in self.state_specs}
        self._context, self._overlap = widths.get(CONTEXT, 0), widths.get(OVERLAP, 0)
        # A context holds samples as they were sent, and those are finite.
        self.hidden = (OVERLAP,) if self._overlap else ()
        signal = architecture.output.overlap_add
        self._hop = architecture.output_width
        self._window: Tensor | None = None
        if signal is not None and signal.window != "none":
            self._window = WINDOWS[signal.window](architecture.frame_width).to(device)

    def step(
        self, x: Tensor, state: State, slots: Tensor | None, inner: Inner
    ) -> tuple[Tensor, State]:
        """One step of a batch: x float32[B, hop] → the output's rows float32[B, W] and the new state.

        With `slots` int64[B], row i's state is row slots[i] of tensors [slots, *shape].
        """
        if not self.state_specs:
            return inner(x, state)
        own, signal = self._split(state)
        if slots is not None:
            signal = tuple(tensor[slots] for tensor in signal)
        parts = dict(zip((spec.name for spec in self.state_specs), signal, strict=True))
        if self._context:
            x = torch.cat((parts[CONTEXT], x), dim=1)
            parts[CONTEXT] = x[:, -self._context :].contiguous()
        y, own = inner(x, own)
        if self._overlap:
            y, parts[OVERLAP] = self._added(parts[OVERLAP], y)
        return y, (*own, *parts.values())

    def packed(
        self, rows: Tensor, sizes: Sequence[int], state: State, inner: Inner
    ) -> tuple[Tensor, State]:
        """Packed rows [rows, hop], `sizes[t]` of them at time t, see `packing`. Results as of `step`."""
        if not self.state_specs:
            return inner(rows, state)
        own, signal = self._split(state)
        parts = dict(zip((spec.name for spec in self.state_specs), signal, strict=True))
        ends = list(accumulate(sizes))
        times = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        if self._context:
            parts[CONTEXT] = context = parts[CONTEXT].clone()
            frames = []
            for time, size in zip(times, sizes, strict=True):
                frames.append(torch.cat((context[:size], rows[time]), dim=1))
                context[:size] = frames[-1][:, -self._context :]
            rows = torch.cat(frames)
        y, own = inner(rows, own)
        if self._overlap:
            parts[OVERLAP] = overlap = parts[OVERLAP].clone()
            samples = []
            for time, size in zip(times, sizes, strict=True):
                ready, overlap[:size] = self._added(overlap[:size], y[time])
                samples.append(ready)
            y = torch.cat(samples)
        return y, (*own, *parts.values())

    def _split(self, state: State) -> tuple[State, State]:
        own = len(state) - len(self.state_specs)
        return state[:own], state[own:]

    def _added(self, overlap: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The complete samples [B, hop] of the frames [B, width] over an overlap, and the new overlap."""
        if self._window is not None:
            frames = frames * self._window
        added = torch.cat((frames[:, : self._overlap] + overlap, frames[:, self._overlap :]), dim=1)
        return added[:, : self._hop].contiguous(), added[:, self._hop :].contiguous()
