"""Walks a graph from its inputs to its output, and makes the chain. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import get_args

from carousel_models.errors import PackageError
from carousel_models.importing.ops import Activate, Chain, Op, Skip
from carousel_models.lookup import entry
from carousel_models.row_parts import Activation
from carousel_models.spec import Output, Select

from . import activations, fusing, joining, layout, recurrent, row_ops, sizes, taking
from .axes import Atom
from .graph import Graph, Node, Port, computed, nodes_of
from .reading import Call, Reading, Values
from .unrolled import Unroller
from .values import Const, Dims, Final, NotAChainError, Rows, Unread, Value

Handler = Callable[[Call], list[Value]]

HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(recurrent.FORMS, recurrent.recurrent),
    **dict.fromkeys(activations.PLAIN, activations.plain),
    **dict.fromkeys(activations.OF_NODES, activations.with_attributes),
    **dict.fromkeys(("Identity", "Dropout"), layout.same),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), row_ops.layer_norm),
    **dict.fromkeys(row_ops.TRANSFORMS, row_ops.to_output),
    "SimplifiedLayerNormalization": row_ops.layer_norm,
    "BatchNormalization": row_ops.batch_norm,
    "MatMul": row_ops.matmul,
    "Gemm": row_ops.gemm,
    "Add": row_ops.add,
    "Sub": row_ops.sub,
    "Mul": row_ops.mul,
    "Div": row_ops.div,
    "Neg": row_ops.negate,
    "Log": row_ops.logarithm,
    "ArgMax": row_ops.arg_max,
    "TopK": row_ops.top_k,
    "Clip": activations.clip,
    "PRelu": activations.prelu,
    "ReduceMean": fusing.mean,
    "Pow": fusing.power,
    "Sqrt": fusing.root,
    "Reciprocal": fusing.reciprocal,
    "Cast": layout.cast,
    "Transpose": layout.transpose,
    "Squeeze": layout.squeeze,
    "Unsqueeze": layout.unsqueeze,
    "Reshape": layout.reshape,
    "Flatten": layout.flatten,
    "Concat": joining.concat,
    "Gather": taking.gather,
    "OneHot": taking.one_hot,
    "Slice": taking.slice_,
    "Split": taking.split,
    "Shape": sizes.shape,
    "ConstantOfShape": sizes.constant_of_shape,
    "Expand": sizes.expand,
    "Equal": sizes.equal_sizes,
    "Where": sizes.where,
    "Greater": fusing.above,
}
"""What reads each operation."""

UNREADABLE = (TypeError, ValueError, KeyError, IndexError, AttributeError)
"""Errors of operations whose inputs or attributes are not those that ONNX gives them."""

OF_SIZES: dict[str, Handler] = {"Mul": sizes.multiplied_sizes}
"""What reads operations on sizes alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A chain, and how the file has it.

    Attributes:
        chain: the operations.
        output: the transform is among the operations; the selection is here.
        raw: the rows that a package is compared with, before transform and selection.
        source: the port of the input.
    """

    chain: Chain
    output: Output
    raw: Rows
    source: Port


class Walker:
    """Reads the nodes of one graph."""

    def __init__(self, graph: Graph, reading: Reading) -> None:
        self._graph = graph
        self._reading = reading
        self._values: dict[str, Value] = {n: Const(a) for n, a in graph.constants.items()}
        self._values |= {port.name: _input(port) for port in graph.inputs}
        self._makers: dict[str, Node] = {}

    def found(self, output: str | None = None) -> Found:
        """The chain to the graph's output.

        Raises:
            NotAChainError: an operation on the way to the output is none of a chain. It is named.
        """
        self._walk(self._graph.nodes)
        rows = self._output(output)
        _check_ops(rows.ops)
        select: Select | None = rows.select
        chain = Chain(rows.ops, rows.embedding)
        port = next(port for port in self._graph.inputs if port.name == rows.source)
        if rows.turned is not None:
            raise NotAChainError("the output has the steps in the opposite order of the input")
        raw = rows.before_the_end()
        if raw.tokens or not raw.ops:
            raise NotAChainError("the output is an input")
        return Found(chain, Output() if select is None else Output(select=select), raw, port)

    def _walk(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            self._makers |= dict.fromkeys(filter(None, node.outputs), node)
            try:
                found = self._results(node)
            except (PackageError, *UNREADABLE) as error:
                why = error if isinstance(error, PackageError) else f"it is damaged ({error!r})"
                reason = NotAChainError(f"{node.op} ({node.name}) is not read: {why}")
                found = [Unread(reason)] * len(node.outputs)
            for name, value in zip(node.outputs, found, strict=False):
                self._values[name] = _named(value, name)

    def _results(self, node: Node) -> list[Value]:
        values = [self._values.get(name) if name else None for name in node.inputs]
        unread = next((value for value in values if isinstance(value, Unread)), None)
        if node.op == "Concat" and unread is not None:
            rolled = Unroller(self._makers, self._values).layer(node, self._reading)
            if rolled is not None:
                return [rolled]
        if unread is not None:
            return [unread] * len(node.outputs)
        if any(name and value is None for name, value in zip(node.inputs, values, strict=True)):
            raise NotAChainError("it takes a tensor that nothing makes")
        if node.op == "If":
            return self._branch(node, values[0])
        if all(value is None or isinstance(value, Const) for value in values):
            return self._computed(node, values)
        table = HANDLERS
        if node.op in OF_SIZES and all(isinstance(value, Dims | Const) for value in values):
            table = OF_SIZES
        if node.op not in table:
            raise NotAChainError("a chain has no such operation")
        return table[node.op](Call(node, values, self._reading))

    def _computed(self, node: Node, values: Values) -> list[Value]:
        given = [value.array if isinstance(value, Const) else None for value in values]
        try:
            return [Const(array) for array in computed(node, given, self._graph.opsets)]
        except Exception as error:  # the reference implementation raises of many kinds
            raise NotAChainError(f"its constants cannot be computed: {error!r}") from error

    def _branch(self, node: Node, condition: Value | None) -> list[Value]:
        """The branch of an If whose condition follows from the file."""
        if not isinstance(condition, Const):
            raise NotAChainError("its condition is computed from rows")
        branch = node.attributes["then_branch" if condition.array.all() else "else_branch"]
        for one in branch.initializer:
            import onnx

            self._values[one.name] = Const(onnx.numpy_helper.to_array(one))
        self._walk(nodes_of(branch))
        return [self._values[port.name] for port in branch.output]

    def _output(self, chosen: str | None) -> Rows:
        """The output of rows. Last states of layers are left out where there is another one."""
        named = {port.name: self._values.get(port.name) for port in self._graph.outputs}
        if chosen is not None:
            named = {chosen: entry(named, chosen, "output", NotAChainError, "choose one of these")}
        read = {name: value for name, value in named.items() if not isinstance(value, Final)}
        plain = {n: v for n, v in read.items() if not (isinstance(v, Rows) and v.final)}
        left = plain or self._last_states(read)
        if not left:
            raise NotAChainError("the graph gives last states of c alone; give it the rows (Y) too")
        for value in left.values():
            if isinstance(value, Unread):
                raise value.reason
        rows = [value for value in left.values() if isinstance(value, Rows)]
        return self._one_of(rows, list(left))

    def _last_states(self, read: Mapping[str, Value | None]) -> dict[str, Value | None]:
        """Of the last states of several layers, that of the last layer."""
        ordered = sorted(
            read, key=lambda name: len(v.ops) if isinstance(v := read[name], Rows) else 0
        )
        return {name: read[name] for name in ordered[-1:]}

    def _one_of(self, rows: list[Rows], names: list[str]) -> Rows:
        full = [one for one in rows if one.select is None]
        if len(full) == 1 and len(rows) > 1:
            self._reading.note("a selection beside the rows is left out: clients get the rows")
            return full[0]
        below = {id(one.below) for one in rows}
        if not rows or (len(rows) > 1 and (full or len(below) > 1)):
            raise NotAChainError(
                f"the graph has the outputs {', '.join(names)}, and a package has one; choose it with "
                "--output"
            )
        return rows[0]


def _input(port: Port) -> Rows:
    axes = tuple(
        (Atom(f"{port.name}.{place}", dim if isinstance(dim, int) else None),)
        for place, dim in enumerate(port.dims)
    )
    return Rows(port.name, axes, port.name, tokens=not port.floating)


def _named(value: Value, name: str) -> Value:
    """The same with its tensor's name."""
    return replace(value, tensor=name) if isinstance(value, Rows) else value


def _check_ops(ops: tuple[Op, ...]) -> None:
    """Refuses what was read as a part of an activation, and is none."""
    for op in ops:
        if isinstance(op, Skip):
            _check_ops(op.ops)
        elif isinstance(op, Activate) and op.name not in get_args(Activation):
            raise NotAChainError(f"{op.name} is not read: it is no part of a gelu or a softsign")
