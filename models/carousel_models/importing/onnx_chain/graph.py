"""An ONNX file as nodes, constants and ports. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from carousel_models.errors import PackageError
from carousel_models.importing.ops import Array


class Port(NamedTuple):
    """An input or an output of the graph. `dims` are numbers, names, or None for open ones without a name."""

    name: str
    floating: bool
    dims: tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operation.

    Attributes:
        op: its name, with the domain in front unless that is ONNX's own.
        name: of the node, or of its first output.
        inputs: names, "" for one that is left out.
        outputs: likewise.
        attributes: by name. Texts are decoded.
        proto: as the file has it.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    proto: Any

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute, or its default."""
        return self.attributes.get(name, default)


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """The graph of a file, with local functions in place of their calls."""

    nodes: tuple[Node, ...]
    constants: dict[str, Array]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opsets: tuple[Any, ...]


def graph_of(data: bytes, where: str) -> Graph:
    """Reads a file that has all of its weights.

    Raises:
        PackageError: it is no ONNX model.
    """
    import onnx
    from onnx import inliner

    try:
        model = onnx.load_from_string(data)
        if model.functions:
            model = inliner.inline_local_functions(model)
        graph = model.graph
        constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
        return Graph(
            nodes_of(graph),
            constants,
            tuple(_port(one) for one in graph.input if one.name not in constants),
            tuple(_port(one) for one in graph.output),
            tuple(model.opset_import),
        )
    except Exception as error:  # protocol buffers fail in many ways
        raise PackageError(f"{where} is no ONNX model: {error!r}; export it again") from error


def nodes_of(graph: Any) -> tuple[Node, ...]:
    """The nodes of a graph or of a branch, in its order, which is that of computation."""
    return tuple(_node(one) for one in graph.node)


def _node(proto: Any) -> Node:
    import onnx

    attributes: dict[str, Any] = {}
    for one in proto.attribute:
        value = onnx.helper.get_attribute_value(one)
        if isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, list) and value and isinstance(value[0], bytes):
            value = [text.decode() for text in value]
        attributes[one.name] = value
    own = proto.domain in ("", "ai.onnx")
    op = proto.op_type if own else f"{proto.domain}.{proto.op_type}"
    name = proto.name or next(filter(None, proto.output), "")
    return Node(op, name, tuple(proto.input), tuple(proto.output), attributes, proto)


def _port(proto: Any) -> Port:
    import onnx

    tensor = proto.type.tensor_type
    dims = tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else dim.dim_param or None
        for dim in tensor.shape.dim
    )
    kinds = onnx.TensorProto
    floating = tensor.elem_type in (kinds.FLOAT, kinds.DOUBLE, kinds.FLOAT16, kinds.BFLOAT16)
    return Port(proto.name, floating, dims)


def computed(node: Node, given: list[Array | None], opsets: tuple[Any, ...]) -> list[Array]:
    """The outputs of a node whose inputs are constants, by ONNX's reference implementation.

    Raises:
        Exception: of any kind, if it has none for the node.
    """
    import numpy as np
    import onnx
    from onnx.reference import ReferenceEvaluator

    ports = {
        name: onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in zip(node.inputs, given, strict=True)
        if array is not None
    }
    outputs = [onnx.ValueInfoProto(name=name) for name in node.outputs if name]
    graph = onnx.helper.make_graph([node.proto], "constants", list(ports.values()), outputs)
    model = onnx.helper.make_model(graph, opset_imports=list(opsets))
    feed = {n: a for n, a in zip(node.inputs, given, strict=True) if a is not None}
    found = iter(ReferenceEvaluator(model).run(None, feed))
    return [np.asarray(next(found)) if name else np.zeros(0) for name in node.outputs]
