"""Small step graphs in all formats, and their equations in float64."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

IN, HIDDEN, OUT = 3, 4, 2

RANDOM = np.random.default_rng(7)
W, U, V = (
    RANDOM.standard_normal(shape).astype(np.float32) * 0.5
    for shape in ((IN, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, OUT))
)


def equations(x: np.ndarray, gain: float = 1.0) -> np.ndarray:
    """Rows [T, OUT] of h ← tanh(gain·x W + h U), y = h V, in float64 from a state of zeros."""
    h, rows = np.zeros(HIDDEN), []
    for row in x.astype(np.float64):
        h = np.tanh(gain * row @ W.astype(np.float64) + h @ U.astype(np.float64))
        rows.append(h @ V.astype(np.float64))
    return np.stack(rows)


def write_onnx(
    path: Path,
    *,
    names: Sequence[str] = ("x", "h", "y", "h_out"),
    batch: Any = "batch",
    axis: int = 0,
    gain: bool = False,
    nodes: Sequence[onnx.NodeProto] = (),
    inputs: Sequence[onnx.ValueInfoProto] = (),
    outputs: Sequence[onnx.ValueInfoProto] = (),
    external: bool = False,
) -> Path:
    """The step of `equations` as an ONNX file.

    Args:
        path: of the file.
        names: of row, state, output row and next state.
        batch: the batch dimension: a name, a number, or None.
        axis: where the batch axis of the state stands, 0 or 1.
        gain: True for an input `gain` that multiplies the row.
        nodes: more nodes.
        inputs: more inputs.
        outputs: more outputs.
        external: keep the weights in another file.
    """
    x, h, y, h_out = names
    float32 = TensorProto.FLOAT
    state = [batch, HIDDEN] if axis == 0 else [1, batch, HIDDEN]
    calls = [
        helper.make_node("Mul", [x, "gain"], ["scaled"])
        if gain
        else helper.make_node("Identity", [x], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "W"], ["from_x"]),
        helper.make_node("MatMul", [h, "U"], ["from_h"]),
        helper.make_node("Add", ["from_x", "from_h"], ["sum"]),
        helper.make_node("Tanh", ["sum"], [h_out]),
        helper.make_node("MatMul", [h_out, "V"], ["rows"]),
        helper.make_node("Reshape", ["rows", "two"], [y]),
    ]
    entering = [helper.make_tensor_value_info(x, float32, [batch, IN])]
    entering.append(helper.make_tensor_value_info(h, float32, state))
    if gain:
        entering.append(helper.make_tensor_value_info("gain", float32, []))
    leaving = [helper.make_tensor_value_info(y, float32, [batch, OUT])]
    leaving.append(helper.make_tensor_value_info(h_out, float32, state))
    weights = [
        numpy_helper.from_array(array, name) for array, name in ((W, "W"), (U, "U"), (V, "V"))
    ]
    weights.append(numpy_helper.from_array(np.array([-1, OUT]), "two"))
    graph = helper.make_graph(
        [*calls, *nodes], "step", [*entering, *inputs], [*leaving, *outputs], weights
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if external:
        onnx.save(
            model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=60
        )
    else:
        onnx.save(model, path)
    return path


class Step(nn.Module):
    """The step of `equations`. The state is [1, B, HIDDEN]."""

    def __init__(self) -> None:
        super().__init__()
        for name, value in (("w", W), ("u", U), ("v", V)):
            self.register_parameter(name, nn.Parameter(torch.from_numpy(value.copy()), False))

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(x @ self.w + h[0] @ self.u)
        return h @ self.v, h[None]


class ScaledStep(Step):
    """The same with a gain, which is a plain number, and with the state in a tuple."""

    def forward(  # type: ignore[override]
        self, x: Tensor, state: tuple[Tensor, Tensor], gain: float
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h, steps = state
        h = torch.tanh(gain * x @ self.w + h @ self.u)
        return h @ self.v, (h, steps + 1)


def write_script(path: Path, module: nn.Module, *, trace: Sequence[Tensor] = ()) -> Path:
    """A module as a TorchScript file, scripted or traced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.jit.trace(module, tuple(trace)) if trace else torch.jit.script(module)
        made.save(str(path))
    return path


def write_pt2(
    path: Path, module: nn.Module, *, dynamic: bool = True, most: int | None = None
) -> Path:
    """`Step` and modules with its arguments as a file of torch.export."""
    batch = torch.export.Dim("batch", min=1, max=most)
    shapes = ({0: batch}, {1: batch}) if dynamic else None
    rows = 2 if dynamic else 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = (torch.zeros(rows, IN), torch.zeros(1, rows, HIDDEN))
        exported = torch.export.export(module, given, dynamic_shapes=shapes)
        torch.export.save(exported, path)
    return path
