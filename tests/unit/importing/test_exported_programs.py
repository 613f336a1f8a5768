"""Step graphs as torch exports them to ONNX, by both of its exporters."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from carousel_models import import_file, load
from carousel_models.probe import run_steps

IN, HIDDEN, LAYERS, OUT = 5, 6, 2, 3


class Recurrent(nn.Module):
    """A step of torch's own layers, with a head. States are [LAYERS, B, HIDDEN]."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = kind(IN, HIDDEN, LAYERS)
        self.head = nn.Linear(HIDDEN, OUT)


class WithMemory(Recurrent):
    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = self.rnn(x[None], (h, c))
        return self.head(y[0]), h, c


class Plain(Recurrent):
    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y, h = self.rnn(x[None], h)
        return self.head(y[0]), h


CASES = [(nn.LSTM, WithMemory, ("h", "c")), (nn.GRU, Plain, ("h",)), (nn.RNN, Plain, ("h",))]


def whole(module: Recurrent, x: Tensor) -> Tensor:
    """The rows of one sequence by torch's own layer, in float64."""
    double = module.double()
    with torch.no_grad():
        rows: Tensor = double.head(double.rnn(x.double()[:, None])[0][:, 0])
    return rows


@pytest.mark.parametrize(
    ("kind", "step", "states", "dynamo"),
    [*((*case, False) for case in CASES), (*CASES[0], True)],
    ids=["lstm", "gru", "rnn", "lstm-dynamo"],
)
def test_exported_steps_give_the_rows_of_the_layer(
    tmp_path: Path,
    kind: type[nn.RNNBase],
    step: type[Recurrent],
    states: tuple[str, ...],
    dynamo: bool,
) -> None:
    if dynamo:
        pytest.importorskip("onnxscript", reason="torch's newer exporter needs it")
    module, file = step(kind).eval(), tmp_path / "step.onnx"
    given = (torch.zeros(2, IN), *(torch.zeros(LAYERS, 2, HIDDEN) for _ in states))
    names = {"input_names": ["x", *states], "output_names": ["y", *(f"{s}n" for s in states)]}
    batch = torch.export.Dim("batch")
    shapes = ({0: batch}, *({1: batch} for _ in states))
    axes = {"x": {0: "batch"}, "y": {0: "batch"}} | {
        name: {1: "batch"} for s in states for name in (s, f"{s}n")
    }
    dynamic = {"dynamic_shapes": shapes} if dynamo else {"dynamic_axes": axes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, given, str(file), dynamo=dynamo, **names, **dynamic)  # type: ignore[arg-type]
    import_file(file, name="m", dir=tmp_path / "out", check=True)
    model = load(tmp_path / "out" / "m")
    part = model.manifest.parts[0]
    assert [(s.enters, s.leaves, s.axis) for s in part.carried] == [(s, f"{s}n", 1) for s in states]
    assert part.batch == "symbolic"
    x = torch.randn(30, IN)
    torch.testing.assert_close(run_steps(model, x).double(), whole(module, x), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("kind", "step", "states"), CASES, ids=["lstm", "gru", "rnn"])
def test_steps_of_torch_export_give_the_rows_of_the_layer(
    tmp_path: Path, kind: type[nn.RNNBase], step: type[Recurrent], states: tuple[str, ...]
) -> None:
    module, file = step(kind).eval(), tmp_path / "step.pt2"
    given = (torch.zeros(2, IN), *(torch.zeros(LAYERS, 2, HIDDEN) for _ in states))
    batch = torch.export.Dim("batch")
    shapes = ({0: batch}, *({1: batch} for _ in states))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(module, given, dynamic_shapes=shapes), file)
    pairs = [f"{name}:{number + 1}" for number, name in enumerate(states)]
    import_file(file, name="m", dir=tmp_path / "out", check=True, state=pairs)
    x = torch.randn(30, IN)
    model = load(tmp_path / "out" / "m")
    torch.testing.assert_close(run_steps(model, x).double(), whole(module, x), rtol=0, atol=2e-6)
