"""Frees the batch axis of ONNX graphs that were exported for one row.

Such a graph names the size 1 in the shapes of its ports, and often in the constants of its Reshape nodes. The
nodes between them mostly work for any size. Whether they do is found out by runs, so nothing here is taken on
trust.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from carousel_models.errors import PackageError

from .program_options import BATCH

Freed = tuple[bytes, tuple[str, ...]]
"""The changed file, and notes for the user."""


def freed(data: bytes, axes: Mapping[str, int], where: str) -> Freed:
    """An ONNX file whose ports and Reshape nodes leave a batch axis of size 1 open.

    Args:
        data: the file.
        axes: the batch axis of some inputs. It is the first of the others.
        where: its name, for errors.

    Raises:
        PackageError: onnx is not installed, or no input has a batch axis of size 1.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as missing:
        raise PackageError(
            f"--free-batch needs onnx, which is not installed here ({missing}); "
            "pip install 'carousel-serving[import]'"
        ) from missing
    model = onnx.load_from_string(data)
    graph = model.graph
    stored = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    shapes = stored | {
        node.output[0]: numpy_helper.to_array(given.t)
        for node in graph.node
        if node.op_type == "Constant"
        for given in node.attribute
        if given.name == "value"
    }
    inputs = [p for p in graph.input if p.name not in stored and _open(p, axes.get(p.name, 0))]
    if not inputs:
        raise PackageError(
            f"no input of {where} has a first dimension of 1, so --free-batch has nothing to free; leave it "
            "out, or say where the batch axis is with --shape NAME=DIMS"
        )
    for port in graph.output:  # runs find out which of their dimensions is the batch axis
        port.type.tensor_type.ClearField("shape")
    changed = 0
    for node in graph.node:
        name = node.input[1] if node.op_type == "Reshape" and len(node.input) > 1 else ""
        shape = shapes.get(name)
        if shape is None or not len(shape) or shape[0] != 1 or -1 in shape:
            continue
        changed += 1
        # Another node may use the same constant, so this node gets one of its own.
        node.input[1] = f"{name}.of_any_batch.{changed}"
        ours = np.concatenate(([-1], shape[1:])).astype(shape.dtype)
        graph.initializer.append(numpy_helper.from_array(ours, node.input[1]))
    del graph.value_info[:]  # shapes in between, which name the size 1 too
    note = (
        f"the batch axis was freed: {len(inputs)} inputs and {changed} Reshape constants of the graph were "
        "changed, and runs with one, two and three sessions agree"
    )
    return model.SerializeToString(), (note,)


def _open(port: Any, axis: int) -> bool:
    """Leaves a dimension of a port open, if it is 1."""
    dims = port.type.tensor_type.shape.dim
    if axis >= len(dims) or (dims[axis].dim_value != 1 and not dims[axis].dim_param):
        return False
    dims[axis].dim_param = BATCH
    return True
