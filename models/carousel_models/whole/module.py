"""Reads a whole module: how it is called, what it computes, and its own rows to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from carousel_models.errors import PackageError
from carousel_models.row_parts import ActivationPart
from carousel_models.spec import Output, SelectFull
from carousel_models.wrappers import unwrapped

from .assembly import Assembled, assemble
from .calling import Calling, callings
from .calls import Sizes
from .chains import MisfitError, chain_of
from .reading import read
from .recording import record, refuse_meta
from .result import in_order, outputs_of, picked
from .values import Computed, Rows, Selected, Transformed

SIZES = Sizes(batch=3, steps=5)


@dataclass(frozen=True, slots=True)
class Whole:
    """A module that was read.

    Attributes:
        calling: how it is called.
        assembled: the manifest's parts, and the tensors.
        outputs: what it returns: rows, or the fields of a selection.
        read: all that it returns, as values.
    """

    calling: Calling
    assembled: Assembled
    outputs: list[Rows]
    read: Any

    @property
    def last_only(self) -> bool:
        """True if the module returns the row of the last step only."""
        return self.outputs[0].time is not None

    @property
    def sent_as(self) -> Output:
        """The transform and the selection that the module itself does."""
        found: Output = self.assembled.parts["output"]
        return found

    def converted(self, output: Output) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Fields of the manifest, and the tensors.

        Args:
            output: a further transform and selection, where the module has none.

        Raises:
            PackageError: both have a transform or a selection.
        """
        found = {}
        for name, none in (("transform", "identity"), ("select", SelectFull())):
            asked, own = getattr(output, name), getattr(self.sent_as, name)
            if none not in (asked, own):
                raise PackageError(
                    f"the module has a {name} already ({_shown(own)}), and {name}= asks for another; leave "
                    "one out"
                )
            found[name] = own if asked == none else asked
        return self.assembled.parts | {"output": Output(**found)}, self.assembled.tensors

    @property
    def initial(self) -> dict[str, Tensor]:
        """States with which sessions begin, by name. Those that are not there begin with zeros."""
        return self.assembled.initial

    def raw(self, x: Tensor) -> Tensor:
        """The module's own rows before transform and selection, [B, T, W].

        If it returns the last step only, it runs once for each step, on the steps so far.

        Args:
            x: float32[B, T, features] or int64[B, T].
        """
        return self._steps(x, self._raw)

    def results(self, x: Tensor) -> list[Tensor]:
        """The module's own results, [B, T, W], one for each field."""
        count = len(self.outputs)
        return [
            self._steps(x, lambda part, n=number: self._own(part)[n]) for number in range(count)
        ]

    def _steps(self, x: Tensor, run: Any) -> Tensor:
        if not self.last_only:
            found: Tensor = run(x)
            return found
        rows = [run(x[:, : step + 1]) for step in range(x.shape[1])]
        return torch.stack(rows, dim=1)

    def _own(self, x: Tensor) -> list[Tensor]:
        tensors = picked(self.calling.run(x), self.read)
        sizes = Sizes(x.shape[0], x.shape[1])
        return [in_order(t, rows, sizes) for t, rows in zip(tensors, self.outputs, strict=True)]

    def _raw(self, x: Tensor) -> Tensor:
        if self.sent_as == Output():
            return self._own(x)[0]
        sizes = Sizes(x.shape[0], x.shape[1])
        graph, values = _recorded(self.calling, x)
        return _raw_rows(graph, outputs_of(values)[0], sizes)


def _shown(part: Any) -> str:
    return str(getattr(part, "kind", part))


def read_module(module: nn.Module, features: int | None, example: Any) -> Whole:
    """Reads a module.

    Args:
        module: the user's. Wrappers of torch are left out.
        features: the input's width, where it does not follow from the module.
        example: x, or (x, other arguments), where these do not follow from the module.

    Raises:
        MisfitError: a manifest cannot describe the module. It names the operation.
        PackageError: the module cannot be run.
    """
    module = unwrapped(module)
    refuse_meta(module)
    misfits: list[tuple[int, MisfitError]] = []
    failures: list[Exception] = []
    for calling in callings(module, features, example):
        found = _tried(calling)
        if isinstance(found, Exception):
            failures.append(found)
            continue
        graph, values = found
        try:
            outputs = outputs_of(values)
            assembled = assemble(chain_of(outputs[0].expr), calling.width)
            _check_time(outputs[0], assembled)
            return Whole(calling, assembled, outputs, values)
        except MisfitError as misfit:
            misfits.append((_known(graph), misfit))
    if misfits:
        raise max(misfits, key=lambda pair: pair[0])[1]
    raise PackageError(
        f"the module fails on every input that was tried: {failures[0]!r}; give example=, the arguments of "
        "one call, as example=x or example=(x, lengths)"
    ) from failures[0]


def _tried(calling: Calling) -> tuple[fx.Graph, Any] | Exception:
    """A recorded run, or the exception of the module."""
    try:
        return _recorded(calling, calling.sample(SIZES))
    except PackageError:
        raise
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything
        return error


def _recorded(calling: Calling, x: Tensor) -> tuple[fx.Graph, Any]:
    args, kwargs = calling.given(x)
    graph = record(calling.module, args, kwargs)
    sizes = Sizes(x.shape[0], x.shape[1])
    return graph, read(graph, calling.axes, calling.width, sizes)


def _known(graph: fx.Graph) -> int:
    """How many operations were understood, of those that depend on the input."""
    return sum(isinstance(node.meta.get("read"), Rows) for node in graph.nodes)


def _check_time(rows: Rows, assembled: Assembled) -> None:
    if rows.time is None:
        return
    if rows.time != SIZES.steps - 1:
        raise MisfitError(
            "the module's result", f"it is the row of step {rows.time} and not of the last one"
        )
    if any(layer.bidirectional for layer in assembled.layers):
        raise MisfitError(
            "the module's result",
            "it is the last row of layers that read both ways, whose backward half has seen one step there; "
            "give all rows",
        )


def _raw_rows(graph: fx.Graph, output: Rows, sizes: Sizes) -> Tensor:
    """The rows before transform and selection, from the run that was recorded."""
    expr = output.expr
    if isinstance(expr, Selected):
        assert expr.x is not None
        expr = expr.x
    if isinstance(expr, Transformed) or _is_sigmoid(expr):
        assert expr.x is not None
        expr = expr.x
    found: dict[int | None, Tensor] = {}
    for node in graph.nodes:
        rows = node.meta.get("read")
        if isinstance(rows, Rows) and rows.expr is expr:
            found[rows.time] = in_order(node.meta["value"], rows, sizes)
    if output.time in found:
        return found[output.time]
    return torch.stack([found[step] for step in range(sizes.steps)], dim=1)


def _is_sigmoid(expr: Any) -> bool:
    return isinstance(expr, Computed) and expr.part == ActivationPart(function="sigmoid")
