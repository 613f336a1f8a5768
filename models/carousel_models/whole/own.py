"""A module's own rows, in the form that `save` compares with, whatever form the module gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from carousel_models.spec import Output

from .calling import Calling
from .calls import Sizes
from .reading import read
from .recording import record
from .result import ended, in_order, outputs_of, picked
from .values import Expr, Rows


@dataclass(frozen=True, slots=True)
class OwnRows:
    """The rows of a module that was read.

    Attributes:
        calling: how it is called.
        outputs: what it returns: rows, or the fields of a selection.
        read: all that it returns, as values.
    """

    calling: Calling
    outputs: list[Rows]
    read: Any

    @property
    def last_only(self) -> bool:
        """True if the module returns the row of the last step only."""
        return self.outputs[0].time is not None

    @property
    def core(self) -> Expr:
        """The rows before transform and selection."""
        return ended(self.outputs[0].expr)[0]

    @property
    def output(self) -> Output:
        """The transform and the selection that the module itself does."""
        return ended(self.outputs[0].expr)[1]

    def raw(self, x: Tensor) -> Tensor:
        """Rows before transform and selection, [B, T, W].

        If the module returns the last step only, it runs once for each step, on the steps so far.

        Args:
            x: float32[B, T, features] or int64[B, T].
        """
        return self._steps(x, self._raw)

    def results(self, x: Tensor) -> list[Tensor]:
        """The module's own results, [B, T, W], one for each field."""
        count = len(self.outputs)
        return [self._steps(x, partial(self._field, number)) for number in range(count)]

    def _field(self, number: int, x: Tensor) -> Tensor:
        return self._own(x)[number]

    def _steps(self, x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        if not self.last_only:
            return run(x)
        rows = [run(x[:, : step + 1]) for step in range(x.shape[1])]
        return torch.stack(rows, dim=1)

    def _own(self, x: Tensor) -> list[Tensor]:
        tensors = picked(self.calling.run(x), self.read)
        sizes = Sizes(x.shape[0], x.shape[1])
        return [in_order(t, rows, sizes) for t, rows in zip(tensors, self.outputs, strict=True)]

    def _raw(self, x: Tensor) -> Tensor:
        if self.output == Output():
            return self._own(x)[0]
        graph, values = recorded(self.calling, x)
        return _found(graph, outputs_of(values)[0], Sizes(x.shape[0], x.shape[1]))


def recorded(calling: Calling, x: Tensor) -> tuple[fx.Graph, Any]:
    """The operations of one call, and its results as values."""
    args, kwargs = calling.given(x)
    graph = record(calling.module, args, kwargs)
    return graph, read(graph, calling.axes, calling.width, Sizes(x.shape[0], x.shape[1]))


def _found(graph: fx.Graph, output: Rows, sizes: Sizes) -> Tensor:
    """The rows before transform and selection, of the run that was recorded."""
    core = ended(output.expr)[0]
    found: dict[int | None, Tensor] = {}
    for node in graph.nodes:
        rows = node.meta.get("read")
        if isinstance(rows, Rows) and rows.expr is core:
            found[rows.time] = in_order(node.meta["value"], rows, sizes)
    if output.time in found:
        return found[output.time]
    return torch.stack([found[step] for step in range(sizes.steps)], dim=1)
