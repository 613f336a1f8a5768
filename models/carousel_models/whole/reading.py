"""Says what each value of a recorded run is, in terms of the input's rows."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torch.overrides import resolve_name

from carousel_models.cells import MODULES as RECURRENT_MODULES

from . import functions, layers, recurrence
from .calls import Call, Handler, Result, Sizes, constant, flat
from .foreign import continued
from .shaping import reshaped, same
from .values import Axes, Constant, Expressions, Rows, Source, Unknown

_UNCHANGED = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.AlphaDropout,
    nn.Identity,
    nn.FeatureAlphaDropout,
)
_SHAPING = (nn.Flatten, nn.Unflatten)

MODULES: dict[type[nn.Module], Handler] = {
    **dict.fromkeys(RECURRENT_MODULES, recurrence.recurrent),
    **dict.fromkeys(recurrence.CELL_MODULES, recurrence.cell),
    **layers.LAYERS,
    **functions.MODULES,
    **dict.fromkeys(_UNCHANGED, same),
    **dict.fromkeys(_SHAPING, reshaped),
}
"""Handlers by the class of a module."""

_FACTORIES = ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like",
              "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor")  # fmt: skip


def read(graph: fx.Graph, axes: Axes, width: int, sizes: Sizes) -> Any:
    """The module's result as values.

    Args:
        graph: as recorded.
        axes: of the input.
        width: of the input's rows, 0 for tokens.
        sizes: of the run.

    Returns:
        Values, in the tuples, lists and dicts that the module returns. `meta["read"]` of each node has its
        value.
    """
    expressions = Expressions()
    found: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        match node.op:
            case "placeholder":
                source = Source(where="the input", x=None, width=width)
                found[node] = Rows(source, axes)
            case "get_attr":
                found[node] = Constant(node.meta["value"])
            case "output":
                return _given(node.args[0], found)
            case _:
                found[node] = _result(node, found, sizes, expressions)
        node.meta["read"] = found[node]
    raise AssertionError("a graph without an output")


def _result(
    node: fx.Node, found: dict[fx.Node, Any], sizes: Sizes, expressions: Expressions
) -> Result:
    args, kwargs = _given(tuple(node.args), found), _given(dict(node.kwargs), found)
    call = Call(name_of(node), args, kwargs, node, sizes, expressions)
    if node.target is operator.getitem and isinstance(args[0], tuple):
        picked: Result = args[0][args[1]]
        return picked
    values = list(flat((args, kwargs)))
    unknown = layers.unknown_in(*values)
    if unknown is not None:
        return unknown
    if all(isinstance(value, Constant) for value in values) or call.name in _FACTORIES:
        return constant(call.value)
    handler = _handler(node, call.name)
    if handler is None:
        return continued(call, call.unknown("no part of a manifest does this"))
    try:
        result = handler(call)
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        result = call.unknown(f"its arguments are not understood ({error})")
    return continued(call, result) if isinstance(result, Unknown) else result


def name_of(node: fx.Node) -> str:
    """The short name of a node's function, method or module class."""
    if node.op == "call_module":
        return type(node.meta["module"]).__name__
    function: Any = node.target
    full: str = resolve_name(function) or getattr(function, "__name__", str(function))
    parts = full.split(".")
    return parts[-2] if parts[-1] == "__get__" else parts[-1]


def _handler(node: fx.Node, name: str) -> Callable[[Call], Result] | None:
    module = node.meta.get("module") if node.op == "call_module" else None
    if module is None:
        return functions.FUNCTIONS.get(name)
    return next((h for kind, h in MODULES.items() if isinstance(module, kind)), None)


def _given(part: Any, found: dict[fx.Node, Any]) -> Any:
    """Arguments with values instead of nodes."""
    if isinstance(part, fx.Node):
        return found[part]
    if isinstance(part, tuple | list):
        return tuple(_given(one, found) for one in part)
    if isinstance(part, dict):
        return {name: _given(one, found) for name, one in part.items()}
    if isinstance(part, slice):
        return slice(*(_given(one, found) for one in (part.start, part.stop, part.step)))
    return part
