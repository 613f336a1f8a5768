"""The `cpu` kernel: packed weights, product and gates of a layer in one call of the native library."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from carousel_models.cells import State, Weights
from carousel_models.spec import LayerSpec

from .interface import Function, Linear, Link, Scatter, Step, Unrolled
from .library import Library, NativeLayer, NativeTargets
from .reference import gather


class Cpu:
    """Layers of the native library; the textbook's GRU and projections are composed of two."""

    batch_invariant = True

    def __init__(self, library: Library) -> None:
        self._library = library
        self.name = f"native-{library.name}"

    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """A packed matrix; see `Kernel.linear`."""
        nothing = weight.new_empty(len(weight), 0)
        layer = NativeLayer(self._library, "linear", Weights(weight, nothing, bias, None))
        return partial(_linear, layer)

    def layer(self, spec: LayerSpec, weights: Weights) -> Step:
        """Packed weights; see `Kernel.layer`."""
        if spec.cell == "gru_reset_before":
            return self._reset_before(weights)
        layer = NativeLayer(self._library, spec.cell, weights)
        if weights.hr is None:
            return _Direct(layer)
        return partial(_step_projected, layer, self.linear(weights.hr, None))

    def unrolled(self, step: Step) -> Unrolled | None:
        """The library's own loop, where a layer's state is what it computes; see `Kernel.unrolled`."""
        return step.unrolled if isinstance(step, _Direct) else None

    def scatter_into(self, targets: Sequence[Tensor]) -> Scatter:
        """Row after row by the library; see `Kernel.scatter_into`."""
        return NativeTargets(self._library, targets).write

    def chain(self, links: Sequence[Link]) -> None:
        """None; see `Kernel.chain`."""

    def recorded(self, function: Function) -> Function:
        """The function itself; see `Kernel.recorded`."""
        return function

    def _reset_before(self, w: Weights) -> Step:
        """Its gates are a layer of σ, its candidate is that of an rnn whose state is r∘h."""
        two = 2 * w.hh.shape[1]
        gates = NativeLayer(self._library, "sigmoid", _rows(w, slice(None, two)))
        candidate = NativeLayer(self._library, "rnn_tanh", _rows(w, slice(two, None)))
        return partial(_step_reset_before, gates, candidate)


def _rows(w: Weights, rows: slice) -> Weights:
    return Weights(*(None if tensor is None else tensor[rows] for tensor in w[:4]))  # type: ignore[arg-type]


def _linear(layer: NativeLayer, x: Tensor) -> Tensor:
    rows = layer.step(x.reshape(-1, layer.inputs))[0]
    return rows.view(*x.shape[:-1], layer.units)


class _Direct:
    """Of a layer that hands on what the library computes: h, or h and c."""

    def __init__(self, layer: NativeLayer) -> None:
        self._layer = layer

    def __call__(
        self, x: Tensor, state: State, slots: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """One step; see `interface.Step`."""
        c = state[1] if len(state) > 1 else None
        after = self._layer.step(x, state[0], c, slots)
        return after[0], after

    def unrolled(self, rows: Tensor, sizes: Sequence[int], state: State) -> tuple[Tensor, State]:
        """Many; see `interface.Unrolled`."""
        running = sizes[0]
        y, *after = self._layer.sequence(rows, sizes, *(tensor[:running] for tensor in state))
        if running == len(state[0]):
            return y, tuple(after)
        waiting = (tensor[running:] for tensor in state)
        return y, tuple(map(torch.cat, zip(after, waiting, strict=True)))


def _step_projected(
    layer: NativeLayer, project: Linear, x: Tensor, state: State, slots: Tensor | None = None
) -> tuple[Tensor, State]:
    unprojected, c = layer.step(x, state[0], state[1], slots)
    h = project(unprojected)
    return h, (h, c)


def _step_reset_before(
    gates: NativeLayer,
    candidate: NativeLayer,
    x: Tensor,
    state: State,
    slots: Tensor | None = None,
) -> tuple[Tensor, State]:
    (h,) = gather(state, slots)
    r, z = gates.step(x, h)[0].chunk(2, dim=-1)
    (n,) = candidate.step(x, r * h)
    h = (1 - z) * h + z * n
    return h, (h,)
