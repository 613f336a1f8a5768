"""Chains of layers as torch's two exporters of ONNX write them, against the modules themselves."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from carousel_models import RecurrentModel, import_file, load
from carousel_models.probe import run_steps

IN, HIDDEN, OUT, VOCABULARY, STEPS, BATCH = 5, 6, 3, 11, 9, 2

EXPORTERS = pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
"""Torch's older and newer exporter."""


class Model(nn.Module):
    """Embedding, recurrent layers, and a head, as the options have it. Rows are `batch_first`."""

    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.tokens = options.pop("tokens", False)
        self.norm = options.pop("norm", False)
        self.residual = options.pop("residual", False)
        self.last = options.pop("last", False)
        self.head = options.pop("head", "linear")
        self.batch_first = options.get("batch_first", True)
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, IN)
        self.rnn = kind(IN, options.pop("hidden", HIDDEN), **{"batch_first": True, **options})
        width = self.rnn.hidden_size * (2 if self.rnn.bidirectional else 1)
        self.layer_norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, OUT)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x) if self.tokens else x
        y = self.rnn(x)[0]
        y = y + x if self.residual else y
        y = self.layer_norm(y) if self.norm else y
        if self.last:
            y = y[:, -1] if self.batch_first else y[-1]
        return self.finish(y)

    def finish(self, y: Tensor) -> Tensor:
        if self.head == "linear":
            return self.linear(y)
        if self.head == "softmax":
            return torch.softmax(self.linear(torch.relu(y)), dim=-1)
        if self.head == "log_softmax":
            return nn.functional.log_softmax(self.linear(y), dim=-1)
        if self.head == "argmax":
            return self.linear(torch.tanh(y)).argmax(dim=-1)
        if self.head == "topk":
            return self.linear(y).topk(2, dim=-1)
        assert self.head == "none"
        return y

    def example(self, batch: int = BATCH, steps: int = STEPS) -> Tensor:
        shape = (batch, steps) if self.batch_first else (steps, batch)
        if self.tokens:
            return torch.randint(0, VOCABULARY, shape)
        return torch.randn(*shape, IN)


def exported(
    module: nn.Module, file: Path, x: Tensor, *, dynamo: bool, fixed: bool = False
) -> Path:
    """Exports a module. Unless `fixed`, both axes before the row are open."""
    if dynamo:
        pytest.importorskip("onnxscript", reason="torch's newer exporter needs it")
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"]}
    if not fixed and dynamo:
        first, second = torch.export.Dim("first", max=999), torch.export.Dim("second", max=999)
        names["dynamic_shapes"] = ({0: first, 1: second},)
    elif not fixed:
        names["dynamic_axes"] = {"x": {0: "first", 1: "second"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (x,), str(file), dynamo=dynamo, **names)
    return file


def imported(file: Path) -> tuple[RecurrentModel, list[str]]:
    notes: list[str] = []
    import_file(file, name="m", dir=file.parent, check=True, note=notes.append)
    return load(file.parent / "m"), notes


def served(model: RecurrentModel, x: Tensor) -> Tensor:
    """Rows [N, T, W] after the transform, before the selection, as sessions or Infer give them."""
    if model.causal:
        raw = torch.stack([run_steps(model, one) for one in x])
    else:
        with torch.inference_mode():
            raw = model.sequence(x, torch.full((len(x),), x.shape[1]))[0]
    transform = {"identity": lambda y: y, "softmax": lambda y: y.softmax(-1)}
    transform["log_softmax"] = lambda y: y.log_softmax(-1)
    return transform[model.manifest.output.transform](raw)


def agrees(model: RecurrentModel, module: Model) -> None:
    x = module.example()
    with torch.no_grad():
        expected = module(x)
    rows = served(model, x if module.batch_first else x.transpose(0, 1))
    if module.last:
        rows = rows[:, -1]
    elif not module.batch_first:
        rows = rows.transpose(0, 1)
    torch.testing.assert_close(rows, expected, rtol=0, atol=1e-5)


FORMS = {
    "lstm": (nn.LSTM, {}),
    "gru": (nn.GRU, {}),
    "time first": (nn.LSTM, {"batch_first": False}),
    "without bias": (nn.GRU, {"bias": False}),
    "bidirectional": (nn.LSTM, {"bidirectional": True}),
    "two layers": (nn.GRU, {"num_layers": 2}),
    "two layers, both directions": (nn.GRU, {"num_layers": 2, "bidirectional": True}),
    "embedding and head": (nn.LSTM, {"tokens": True, "head": "softmax"}),
    "layer norm": (nn.GRU, {"norm": True, "head": "log_softmax"}),
    "residual": (nn.LSTM, {"residual": True, "hidden": IN, "norm": True}),
    "last step": (nn.LSTM, {"last": True, "tokens": True, "num_layers": 2}),
    "last step, time first": (nn.GRU, {"last": True, "batch_first": False}),
    "no head": (nn.LSTM, {"head": "none"}),
}


@EXPORTERS
@pytest.mark.parametrize("form", FORMS)
def test_an_export_is_the_module(form: str, dynamo: bool, tmp_path: Path) -> None:
    kind, options = FORMS[form]
    module = Model(kind, **options)
    model, notes = imported(exported(module, tmp_path / "m.onnx", module.example(), dynamo=dynamo))
    assert model.manifest.stack
    assert notes[-1] == "the package gives the original's rows"
    assert any("returned its last step alone" in note for note in notes) == module.last
    agrees(model, module)


RNNS = {
    "tanh": {"nonlinearity": "tanh"},
    "relu": {"nonlinearity": "relu"},
    "without bias": {"bias": False},
    "two layers": {"num_layers": 2},
    "time first": {"batch_first": False},
    "last step": {"last": True},
    "bidirectional": {"bidirectional": True},
}


@EXPORTERS
@pytest.mark.parametrize("form", RNNS)
def test_an_export_of_an_rnn_is_the_module(form: str, dynamo: bool, tmp_path: Path) -> None:
    """The newer exporter writes each step of an RNN by itself."""
    module = Model(nn.RNN, **RNNS[form])
    fixed = module.example()
    model, _ = imported(exported(module, tmp_path / "m.onnx", fixed, dynamo=dynamo, fixed=True))
    nonlinearity = RNNS[form].get("nonlinearity", "tanh")
    assert {layer.cell for layer in model.manifest.stack} == {f"rnn_{nonlinearity}"}
    agrees(model, module)


@EXPORTERS
def test_sizes_of_the_example_may_be_fixed(dynamo: bool, tmp_path: Path) -> None:
    module = Model(nn.LSTM, last=True, num_layers=2, bidirectional=False)
    file = exported(module, tmp_path / "m.onnx", module.example(), dynamo=dynamo, fixed=True)
    model, notes = imported(file)
    assert any("returned its last step alone" in note for note in notes)
    agrees(model, module)


@EXPORTERS
@pytest.mark.parametrize("head", ["argmax", "topk"])
def test_a_selection_at_the_end_is_the_packages(head: str, dynamo: bool, tmp_path: Path) -> None:
    module = Model(nn.GRU, head=head)
    model, notes = imported(exported(module, tmp_path / "m.onnx", module.example(), dynamo=dynamo))
    assert notes[-1] == "the package gives the original's rows"
    x = module.example()
    with torch.no_grad():
        expected = module(x)
    rows = torch.cat([run_steps(model, one) for one in x])
    found = model.finish(rows)
    if head == "argmax":
        assert torch.equal(found[0].long(), expected.flatten())
    else:
        torch.testing.assert_close(found[0], expected.values.flatten(0, 1), rtol=0, atol=1e-5)
        assert torch.equal(found[1].long(), expected.indices.flatten(0, 1))


class WithState(nn.Module):
    """Layers that take and give their states, as for a decoder."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.LSTM(IN, HIDDEN, 2)
        self.linear = nn.Linear(HIDDEN, OUT)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (hn, cn) = self.rnn(x, (h, c))
        return self.linear(y), hn, cn


@EXPORTERS
def test_states_of_a_sequence_are_those_of_a_session(dynamo: bool, tmp_path: Path) -> None:
    if dynamo:
        pytest.importorskip("onnxscript", reason="torch's newer exporter needs it")
    module, file = WithState().eval(), tmp_path / "m.onnx"
    given = (torch.randn(STEPS, 1, IN), *(torch.zeros(2, 1, HIDDEN) for _ in range(2)))
    names: dict[str, Any] = {"input_names": ["x", "h", "c"], "output_names": ["y", "hn", "cn"]}
    if dynamo:
        names["dynamic_shapes"] = ({0: torch.export.Dim("steps", max=999)}, {}, {})
    else:
        names["dynamic_axes"] = {"x": {0: "steps"}, "y": {0: "steps"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, given, str(file), dynamo=dynamo, **names)
    model, notes = imported(file)
    assert [state.name for state in model.manifest.states] == ["0.h", "0.c", "1.h", "1.c"]
    assert any(note.startswith("h is the state of a session") for note in notes)
    with torch.no_grad():
        expected = module(*given)[0][:, 0]
    torch.testing.assert_close(run_steps(model, given[0][:, 0]), expected, rtol=0, atol=1e-5)


class Learned(nn.Module):
    """A layer that begins with numbers of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.GRU(IN, HIDDEN, 2, batch_first=True)
        self.start = nn.Parameter(torch.randn(2, 1, HIDDEN))

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.rnn(x, self.start.expand(-1, x.shape[0], -1).contiguous())[0]
        return rows


@EXPORTERS
def test_a_learned_initial_state_is_the_packages(dynamo: bool, tmp_path: Path) -> None:
    module, x = Learned(), torch.randn(BATCH, STEPS, IN)
    model, _ = imported(exported(module, tmp_path / "m.onnx", x, dynamo=dynamo))
    assert model.manifest.initial[0].stored == ("0.h", "1.h")
    with torch.no_grad():
        expected = module(x)
    found = torch.stack([run_steps(model, one) for one in x])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


class Activations(nn.Module):
    """Activations that the older exporter writes as several operations, and a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.front = nn.Sequential(nn.Linear(IN, 4), nn.GELU(), nn.Linear(4, 4), nn.SiLU())
        self.rnn = nn.LSTM(4, HIDDEN, batch_first=True)
        self.norm = nn.BatchNorm1d(HIDDEN)
        self.norm.running_mean = torch.randn(HIDDEN)
        self.norm.running_var = torch.rand(HIDDEN) + 0.5
        self.head = nn.Sequential(
            nn.Linear(HIDDEN, 4), nn.Mish(), nn.LayerNorm(4, eps=1e-3), nn.Linear(4, 4),
            nn.LeakyReLU(0.2), nn.Linear(4, 4), nn.ELU(), nn.Linear(4, 4), nn.ReLU6(),
            nn.Linear(4, 4), nn.Hardtanh(-0.5, 0.5), nn.Linear(4, 4), nn.Softplus(),
            nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 4), nn.Hardswish(), nn.Linear(4, 4),
            nn.LogSigmoid(), nn.Linear(4, 4), nn.SELU(), nn.Linear(4, 4), nn.Hardsigmoid(),
            nn.Linear(4, 4), nn.CELU(0.7), nn.Linear(4, OUT),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y = self.rnn(self.front(x))[0]
        y = self.norm(y.transpose(1, 2)).transpose(1, 2)
        rows: Tensor = self.head(y)
        return rows


@EXPORTERS
def test_rows_around_the_layer_are_the_modules(dynamo: bool, tmp_path: Path) -> None:
    module, x = Activations(), torch.randn(BATCH, STEPS, IN)
    model, notes = imported(exported(module, tmp_path / "m.onnx", x, dynamo=dynamo))
    assert notes[-1] == "the package gives the original's rows"
    with torch.no_grad():
        expected = module(x)
    found = torch.stack([run_steps(model, one) for one in x])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_older_opsets_write_norms_as_single_operations(opset: int, tmp_path: Path) -> None:
    module, file = Model(nn.GRU, norm=True, head="softmax"), tmp_path / "m.onnx"
    axes = {"x": {0: "batch", 1: "steps"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (module.example(),), str(file), dynamo=False, opset_version=opset,
            input_names=["x"], output_names=["y"], dynamic_axes=axes,
        )  # fmt: skip
    has = {node.op_type for node in onnx.load(file).graph.node}
    assert ("LayerNormalization" in has) == (opset >= 17)
    model, _ = imported(file)
    agrees(model, module)


def test_exports_lose_projections(tmp_path: Path) -> None:
    """ONNX has no projection: one exporter refuses it, the other one writes another model."""
    module = nn.LSTM(IN, HIDDEN, proj_size=4, batch_first=True)
    x = torch.randn(BATCH, STEPS, IN)
    with pytest.raises(torch.onnx.errors.SymbolicValueError, match="projections"):
        exported(module, tmp_path / "m.onnx", x, dynamo=False)
    file = exported(module, tmp_path / "m.onnx", x, dynamo=True)
    model, _ = imported(file)  # it is the file, to the bit of its weights
    assert (model.manifest.stack[0].hidden, model.manifest.stack[0].proj_size) == (4, 0)
    rows = run_steps(model, x[0])
    with torch.no_grad():
        assert not np.allclose(rows, module(x)[0][0], atol=1e-3)
