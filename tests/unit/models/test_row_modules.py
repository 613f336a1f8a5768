"""Layers of torch around the cells: saved from modules, and stepped against them in float64."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from carousel_models import PackageError, load, save
from carousel_models.heads import ChainHead, MlpHead
from carousel_models.row_modules import ROW_MODULES, part_of


def trained(module: nn.Module, seed: int = 0) -> Any:
    """A module in eval mode whose every number is its own."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.is_floating_point():
                moved = tensor + torch.randn_like(tensor) * 0.3
                tensor.copy_(moved.abs() + 0.2 if "running_var" in name else moved)
    return module.eval()


def exact(*modules: Any) -> list[Any]:
    return [copy.deepcopy(module).double() for module in modules]


def check(path: Path, x: Tensor, rows: Tensor) -> None:
    """The package gives these rows, step by step."""
    model = load(path)
    state, found = model.initial_state(len(x)), []
    with torch.inference_mode():
        for step in x.transpose(0, 1):
            raw, state = model.step(step, state)
            found.append(raw)
    torch.testing.assert_close(torch.stack(found, 1).double(), rows, rtol=2e-5, atol=2e-5)


HEADS = {
    "batch norm": nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)),
    "batch norm, no bias": nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5)),
    "batch norm first": nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2)),
    "plain batch norm": nn.BatchNorm1d(6, affine=False, eps=0.1),
    "layer norm": nn.Sequential(nn.LayerNorm(6, eps=0.01), nn.Linear(6, 2)),
    "rms": nn.Sequential(nn.Linear(6, 4), nn.RMSNorm(4), nn.Mish()),
    "ends in an activation": nn.Sequential(nn.Linear(6, 4), nn.Softplus(beta=2, threshold=1)),
    "different activations": nn.Sequential(
        nn.Linear(6, 5), nn.ELU(0.5), nn.Linear(5, 5), nn.GELU("tanh"), nn.Linear(5, 2)
    ),
    "some biases": nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 2)),
    "nested": nn.Sequential(nn.Sequential(nn.Linear(6, 5), nn.PReLU(5)), nn.Dropout(), nn.Linear(5, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_heads_of_many_layers(tmp_path: Path, name: str) -> None:
    stack, head = trained(nn.GRU(3, 6, batch_first=True)), trained(HEADS[name])
    save(tmp_path / "m", stack=stack, head=head)
    x = torch.randn(4, 6, 3)
    twin, top = exact(stack, head)
    with torch.no_grad():
        rows = top(twin(x.double())[0].flatten(0, 1)).unflatten(0, (4, 6))
    check(tmp_path / "m", x, rows)


def test_a_batch_norm_behind_a_linear_layer_costs_nothing(tmp_path: Path) -> None:
    head = trained(HEADS["batch norm"])
    written = save(tmp_path / "m", stack=nn.GRU(3, 6), head=head)
    assert written.head == MlpHead(hidden=(5,), width=2)
    other = save(tmp_path / "n", stack=nn.GRU(3, 6), head=trained(HEADS["batch norm first"]))
    assert isinstance(other.head, ChainHead)
    assert [part.kind for part in other.head.parts] == ["scale", "linear"]


NORMS = {
    "usual": nn.LayerNorm(6),
    "eps": nn.LayerNorm(6, eps=0.1),
    "no affine": nn.LayerNorm(6, elementwise_affine=False),
    "no bias": nn.LayerNorm(6, bias=False),
    "rms": nn.RMSNorm(6),
    "rms, eps": nn.RMSNorm(6, eps=0.2, elementwise_affine=False),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_of_layers(tmp_path: Path, name: str) -> None:
    layers = [trained(nn.GRU(6, 6, batch_first=True), seed) for seed in (1, 2)]
    norm = trained(NORMS[name])
    written = save(tmp_path / "m", stack=layers, norms=[norm, norm], residual=True)
    assert written.stack[0].layer_norm is (name == "usual")
    x = torch.randn(3, 5, 6)
    (first, second, top), y = exact(*layers, norm), x.double()
    with torch.no_grad():
        for layer in (first, second):
            y = top(y + layer(y)[0])
    check(tmp_path / "m", x, y)


CELLS = [nn.LSTMCell(3, 5), nn.GRUCell(5, 4), nn.RNNCell(4, 5, nonlinearity="relu"),
         nn.RNNCell(5, 4), nn.LSTMCell(4, 3, bias=False)]  # fmt: skip


def test_single_cells_are_layers(tmp_path: Path) -> None:
    cells = [trained(cell, seed) for seed, cell in enumerate(CELLS)]
    written = save(tmp_path / "m", stack=cells)
    assert written.cell == "lstm+gru+rnn_relu+rnn_tanh"
    x, twins = torch.randn(2, 6, 3), exact(*cells)
    states: list[Any] = [None] * len(cells)
    rows = []
    with torch.no_grad():
        for step in x.double().transpose(0, 1):
            y = step
            for number, cell in enumerate(twins):
                states[number] = cell(y, states[number])
                y = states[number][0] if isinstance(cell, nn.LSTMCell) else states[number]
            rows.append(y)
    check(tmp_path / "m", x, torch.stack(rows, 1))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_wrappers_are_left_out(tmp_path: Path) -> None:
    stack, head = trained(nn.GRU(3, 4)), trained(nn.Linear(4, 2))
    plain = save(tmp_path / "plain", stack=stack, head=head)
    for name, wrap in {"compiled": torch.compile, "parallel": nn.DataParallel}.items():
        found = save(tmp_path / name, stack=[wrap(stack)], head=wrap(head))
        assert found.fingerprint == plain.fingerprint
    with pytest.raises(PackageError, match="TopLevelTracedModule, and TorchScript cannot be"):
        save(tmp_path / "script", stack=stack, head=torch.jit.trace(head, torch.randn(1, 4)))


def test_every_layer_of_rows_is_a_part() -> None:
    made = {nn.Linear: (3, 2), nn.LayerNorm: (3,), nn.RMSNorm: (3,), nn.BatchNorm1d: (3,)}
    for kind in ROW_MODULES:
        module = kind(*made.get(kind, ()))
        assert isinstance(module, nn.BatchNorm1d) or part_of(module) is not None
    assert part_of(nn.GLU()) is None
