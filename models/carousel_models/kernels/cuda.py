"""The `cuda` kernel: packed products, gates in Triton's language, graphs. Imported where Triton is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor

from carousel_models.errors import KernelError
from carousel_models.spec import LayerSpec

from . import gates
from .chain import Chain, PackedLink
from .graphs import Graphs, Recorder
from .interface import Function, Linear, Link, Scatter, Step
from .packed import launch, linear, packed
from .reference import Reference

_MOST_TARGETS = 16
"""Most targets of one launch. Each number of targets is compiled."""


class Cuda:
    """Layers on a CUDA device.

    Args:
        recorder: makes graphs. Without one, each step launches its programs one by one.
    """

    batch_invariant = False
    name = f"cuda-triton-{triton.__version__}"

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = recorder

    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """Torch's product, with sums in float32; see `Kernel.linear`."""
        return partial(linear, weight=weight, bias=bias)

    def layer(self, spec: LayerSpec, weights: Any) -> Step | None:
        """Packed weights; see `Kernel.layer`."""
        layer = packed(spec, weights)
        return None if layer is None else _Single(PackedLink(layer), len(spec.states))

    def chain(self, links: Sequence[Link]) -> Step | None:
        """All layers in one; see `Kernel.chain`."""
        known, states = [], []
        for link in links:
            if not isinstance(link.step, _Single):
                return None
            known.append(link.step.link._replace(residual=link.residual, norm=link.norm))
            states.append(link.step.states)
        return Chain(known, states)

    def unrolled(self, step: Step) -> None:
        """None: cuDNN has whole sequences; see `Kernel.unrolled`."""

    def scatter_into(self, targets: Sequence[Tensor]) -> Scatter:
        """One launch for all targets that are rows of float32; see `Kernel.scatter_into`."""
        if all(t.dim() == 2 and t.dtype == torch.float32 and t.stride(1) == 1 for t in targets):
            return partial(_scatter, tuple(targets))
        return Reference().scatter_into(targets)

    def recorded(self, function: Function) -> Function:
        """With a graph for each shape of its arguments; see `Kernel.recorded`."""
        return function if self._recorder is None else Graphs(function, self._recorder)


def open_cuda(device: torch.device, recorder: Recorder | None) -> Cuda:
    """Makes the kernel, and checks it by running a program on the device.

    Raises:
        KernelError: Triton cannot compile or run one here.
    """
    kernel, target = Cuda(recorder), torch.zeros(3, 2, device=device)
    try:
        slots, rows = torch.tensor([2, 0], device=device), torch.ones(2, 2, device=device)
        kernel.scatter_into([target])(slots, (rows,))
        found = target.tolist()
    except Exception as error:
        raise KernelError(
            f"Triton cannot run here; it needs a C compiler and a folder for its cache: {error}"
        ) from error
    if found != [[1, 1], [0, 0], [1, 1]]:
        raise KernelError("Triton's programs compute wrongly here")
    return kernel


class _Single(Chain):
    """One layer alone, which a chain can include."""

    def __init__(self, link: PackedLink, states: int) -> None:
        super().__init__([link], [states])
        self.link = link
        self.states = states


def _scatter(targets: tuple[Tensor, ...], slots: Tensor, rows: tuple[Tensor, ...]) -> None:
    for first in range(0, len(targets), _MOST_TARGETS):
        some = targets[first : first + _MOST_TARGETS]
        sources = tuple(row.contiguous() for row in rows[first : first + _MOST_TARGETS])
        widths = tuple(target.shape[1] for target in some)
        strides = tuple(target.stride(0) for target in some)
        launch(gates.scatter, len(slots), max(widths), some, strides, sources, slots, widths)
