"""Folds operations into their neighbours. No torch.

Batch norms, and linear layers without an activation, disappear into the matrices beside them. So a step has
fewer of them. Products are computed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .ops import Chain, Linear, Op, Recur, Scale, Skip


def folded(chain: Chain) -> Chain:
    """The same model with fewer operations."""
    chain = _scaled_input(chain)
    return replace(chain, ops=tuple(_shortened(chain.ops, behind_a_layer=False)))


def _scaled_input(chain: Chain) -> Chain:
    """A scale of the input becomes a part of the embedding, or the normalization of features."""
    first = chain.ops[0] if chain.ops else None
    if not isinstance(first, Scale):
        return chain
    factor = first.factor.astype(np.float64)
    if chain.embedding is not None:
        rows = chain.embedding * factor + first.shift
        return _scaled_input(replace(chain, ops=chain.ops[1:], embedding=rows))
    if chain.normalization is None and (factor > 0).all():
        constants = (0.0 - first.shift / factor, 1 / factor)
        return replace(chain, ops=chain.ops[1:], normalization=constants)
    return chain


def _shortened(ops: Sequence[Op], behind_a_layer: bool) -> list[Op]:
    found: list[Op] = []
    for op in ops:
        if isinstance(op, Skip):
            op = replace(op, ops=tuple(_shortened(op.ops, behind_a_layer)))  # noqa: PLW2901
        last = found[-1] if found else None
        if isinstance(last, Linear | Scale) and isinstance(op, Linear | Scale):
            found[-1] = _joined(last, op)
        elif isinstance(op, Recur) and _enters(last, behind_a_layer):
            assert isinstance(last, Linear | Scale)
            entered = tuple(direction.entered_by(_matrix(last)) for direction in op.directions)
            found[-1] = replace(op, directions=entered)
        else:
            found.append(op)
        behind_a_layer = behind_a_layer or isinstance(op, Recur | Skip)
    return found


def _enters(op: Op | None, behind_a_layer: bool) -> bool:
    """True if an operation becomes a part of W_ih. A linear layer of the input stays: it may be narrow."""
    return isinstance(op, Scale) or (isinstance(op, Linear) and behind_a_layer)


def _joined(first: Linear | Scale, second: Linear | Scale) -> Linear | Scale:
    """One operation for two."""
    if isinstance(first, Scale) and isinstance(second, Scale):
        factor = second.factor.astype(np.float64)
        return Scale(first.factor * factor, first.shift * factor + second.shift)
    one, two = _matrix(first), _matrix(second)
    weight = two.weight.astype(np.float64)
    bias = None if one.bias is None else weight @ one.bias
    if two.bias is not None:
        bias = two.bias if bias is None else bias + two.bias
    return Linear(weight @ one.weight, bias)


def _matrix(op: Linear | Scale) -> Linear:
    return op if isinstance(op, Linear) else Linear(np.diag(op.factor), op.shift)
