"""The `cpu` kernel: packed weights, product and gates of a layer in one call of the native library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from carousel_models.cell_facts import facts_of
from carousel_models.cells import State, Weights
from carousel_models.errors import KernelError
from carousel_models.lookup import entry
from carousel_models.spec import LayerSpec

from .interface import Function, Linear, Link, Scatter, Step, Unrolled
from .library import Library, NativeLayer, NativeTargets
from .reference import gather

Form = Callable[[Library, Weights], Step | None]
"""Makes the step of a layer from its weights. None if the library has no code for such weights."""


class Cpu:
    """Layers of the native library. The textbook's GRU and projections are composed of two."""

    batch_invariant = True

    def __init__(self, library: Library) -> None:
        self._library = library
        self.name = f"native-{library.name}"

    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """A packed matrix; see `Kernel.linear`."""
        return _product(self._library, weight, bias)

    def layer(self, spec: LayerSpec, weights: Any) -> Step | None:
        """Packed weights; see `Kernel.layer`.

        Raises:
            KernelError: the cell's facts name this kernel, which has no form for it.
        """
        if "cpu" not in facts_of(spec.cell).kernels:
            return None
        fix = "add it to kernels/cpu.FORMS, or serve with kernel=reference"
        form = entry(FORMS, spec.cell, "native form of a cell", KernelError, fix)
        return form(self._library, weights)

    def unrolled(self, step: Step) -> Unrolled | None:
        """The library's own loop, for layers without a projection; see `Kernel.unrolled`."""
        return step.unrolled if isinstance(step, _Direct) else None

    def scatter_into(self, targets: Sequence[Tensor]) -> Scatter:
        """Row after row by the library; see `Kernel.scatter_into`."""
        return NativeTargets(self._library, targets).write

    def chain(self, links: Sequence[Link]) -> None:
        """None; see `Kernel.chain`."""

    def recorded(self, function: Function) -> Function:
        """The function itself; see `Kernel.recorded`."""
        return function


def _native(cell: str) -> Form:
    """A cell of the library."""
    return lambda library, w: _Direct(NativeLayer(library, cell, w))


def _lstm(library: Library, w: Weights) -> Step | None:
    if w.peepholes is not None:
        return None
    layer = NativeLayer(library, "lstm", w)
    if w.hr is None:
        return _Direct(layer)
    return partial(_step_projected, layer, _product(library, w.hr, None))


def _reset_before(library: Library, w: Weights) -> Step:
    """Two layers: one of σ for the gates, and an rnn with the state r∘h for the candidate."""
    two = 2 * w.hh.shape[1]
    gates = NativeLayer(library, "sigmoid", _rows(w, slice(None, two)))
    candidate = NativeLayer(library, "rnn_tanh", _rows(w, slice(two, None)))
    return partial(_step_reset_before, gates, candidate)


FORMS: dict[str, Form] = {
    "rnn_tanh": _native("rnn_tanh"),
    "rnn_relu": _native("rnn_relu"),
    "lstm": _lstm,
    "gru": _native("gru"),
    "gru_reset_before": _reset_before,
}
"""What steps each cell whose facts name this kernel: the library, or a composition of its layers."""


def _product(library: Library, weight: Tensor, bias: Tensor | None) -> Linear:
    nothing = weight.new_empty(len(weight), 0)
    return partial(_linear, NativeLayer(library, "linear", Weights(weight, nothing, bias, None)))


def _rows(w: Weights, rows: slice) -> Weights:
    return Weights(*(None if tensor is None else tensor[rows] for tensor in w[:4]))  # type: ignore[arg-type]


def _linear(layer: NativeLayer, x: Tensor) -> Tensor:
    rows = layer.step(x.reshape(-1, layer.inputs))[0]
    return rows.view(*x.shape[:-1], layer.units)


class _Direct:
    """Step and loop of a layer whose state is the library's: h, or h and c."""

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
        """Many steps; see `interface.Unrolled`."""
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
