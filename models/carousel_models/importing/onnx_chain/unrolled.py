"""An RNN whose steps are single operations, as torch's newer exporter writes it. No torch.

Each step is h_t = f(x_t + R h_(t−1) + b), with x_t one step of a product that runs over all steps, and f
tanh or relu. A Concat joins the steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from carousel_models.importing.ops import Array, Direction, Linear, Recur

from .axes import size_of
from .graph import Node
from .reading import Reading
from .recurrent import rolled
from .values import Const, Filled, NotAChainError, Rows, Value

CELLS = {"Tanh": "rnn_tanh", "Relu": "rnn_relu"}
PASSED = ("Squeeze", "Unsqueeze", "Reshape", "Identity")
"""Operations between steps that only move axes."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One step: its row of the input's share, the matrix and bias of the state, and the state before.

    A first step may have a constant in place of its product with zeros, which is the bias.
    """

    op: str
    x: Rows
    weight: str = ""
    bias: str = ""
    before: str = ""
    constant: Array | None = None


@dataclass(frozen=True, slots=True)
class Unroller:
    """Finds such layers.

    Attributes:
        makers: the node that makes each tensor.
        values: what was read so far.
    """

    makers: Mapping[str, Node]
    values: Mapping[str, Value]

    def layer(self, node: Node, reading: Reading) -> Rows | None:
        """The rows of a layer whose steps a Concat joins. None if the Concat joins other things.

        Raises:
            NotAChainError: the steps are not those of one layer.
        """
        steps = [self._step(name) for name in node.inputs]
        found = [step for step in steps if step is not None]
        if not found or len(found) < len(steps):
            return None
        pieces = [step.x.piece for step in found if step.x.piece is not None]
        whole, axis, _ = pieces[0]
        places = [(id(rows), along, place) for rows, along, place in pieces]
        wanted = [(id(whole), axis, place) for place in range(size_of(whole.axes[axis]) or 0)]
        names = list(node.inputs)
        turns = len(found) > 1 and places == wanted[::-1]
        if turns:
            found, names, places = found[::-1], names[::-1], wanted
        reverse = self._begins(found[-1]) and len(found) > 1
        order = found[::-1] if reverse else found
        names = names[::-1] if reverse else names
        first, *later = order
        same = {(step.op, step.weight, step.bias) for step in later}
        chained = all(
            self._passed(step.before) == self._passed(name)
            for step, name in zip(later, names, strict=False)
        )
        if len(same) != 1 or not chained or places != wanted or first.op != later[0].op:
            raise NotAChainError("it joins steps that are not all steps of one layer")
        if not self._begins(first) or not self._adds_the_bias(first, later[0]):
            raise NotAChainError("it joins steps that do not begin with zeros")
        direction = self._direction(later[0], whole)
        recur = Recur(CELLS[first.op], (direction,), backward=reverse)
        rows = rolled(replace(whole, ops=whole.ops[:-1]), axis, recur, reading)
        return replace(rows, turned=None if rows.turned else rows.time) if turns else rows

    def _begins(self, step: _Step) -> bool:
        """True for a step whose state before is zeros."""
        if not step.weight:
            return True
        value = self.values.get(step.before)
        return isinstance(value, Const | Filled) and not value.array.any()

    def _adds_the_bias(self, first: _Step, later: _Step) -> bool:
        """True if the first step is as the later ones with a state of zeros."""
        if first.weight:
            return (first.weight, first.bias) == (later.weight, later.bias)
        bias = self._array(later.bias) if later.bias else np.zeros(1)
        given = np.zeros(1) if first.constant is None else first.constant
        return bool((given == bias).all())

    def _step(self, name: str) -> _Step | None:
        act = self.makers.get(self._passed(name))
        if act is None or act.op not in CELLS:
            return None
        x = self.values.get(act.inputs[0])
        if isinstance(x, Rows) and x.piece is not None:
            return _Step(act.op, x)  # a first step whose sum with zeros was left out
        total = self.makers.get(self._passed(act.inputs[0]))
        if total is None or total.op != "Add":
            return None
        for one, two in (total.inputs, total.inputs[::-1]):
            x, state = self.values.get(one), self.values.get(two)
            if not isinstance(x, Rows) or x.piece is None:
                continue
            if isinstance(state, Const):
                return _Step(act.op, x, constant=state.array)
            product = self._product(self._passed(two))
            if product is not None:
                return _Step(act.op, x, *product)
        return None

    def _product(self, name: str) -> tuple[str, str, str] | None:
        """Names of the matrix, the bias and the state of R h + b."""
        bias, node = "", self.makers.get(name)
        if node is not None and node.op == "Add":
            for one, two in (node.inputs, node.inputs[::-1]):
                if isinstance(self.values.get(two), Const):
                    bias, node = two, self.makers.get(self._passed(one))
                    break
        if node is None or node.op != "MatMul":
            return None
        return node.inputs[1], bias, node.inputs[0]

    def _passed(self, name: str) -> str:
        """The tensor behind operations that only move axes."""
        node = self.makers.get(name)
        while node is not None and node.op in PASSED:
            name = node.inputs[0]
            node = self.makers.get(name)
        return name

    def _direction(self, step: _Step, whole: Rows) -> Direction:
        last = whole.ops[-1] if whole.ops else None
        if not isinstance(last, Linear):
            raise NotAChainError("its steps add rows that are no product of its input")
        weight = self._array(step.weight).T
        bias = self._array(step.bias) if step.bias else None
        if bias is None and last.bias is None:
            return Direction(last.weight, weight)
        zeros = np.zeros(len(weight))
        return Direction(
            last.weight,
            weight,
            zeros if last.bias is None else last.bias,
            zeros if bias is None else np.ravel(bias),
        )

    def _array(self, name: str) -> Array:
        value = self.values.get(name)
        if not isinstance(value, Const):
            raise NotAChainError("its steps have weights that are computed")
        return value.array
