"""Small forms of the same computation: functions and methods, own cells, rounded types, other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that every torch reader knows

from carousel_models import PackageError, cells, load, save
from carousel_models.heads import ChainHead, MlpHead
from carousel_models.row_modules import ACTIVATION_MODULES
from carousel_models.whole.recording import record
from tests.unit.whole.modules import ResidualStack
from tests.unit.whole.test_whole_models import saved


class Around(nn.Module):
    """A function between two linear layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 6, batch_first=True)
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 2)
        self.function = function
        self.weight = nn.Parameter(torch.rand(6))
        self.matrix = nn.Parameter(torch.rand(6, 6))
        self.register_buffer("mean", torch.rand(6))
        self.register_buffer("var", torch.rand(6) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(self.a(self.gru(x)[0])))


ACTIVATIONS = {
    **{name: getattr(F, name) for name in ACTIVATION_MODULES.values()},
    "leaky_relu, 0.3": lambda x: F.leaky_relu(x, 0.3),
    "elu, 2": lambda x: F.elu(x, alpha=2.0),
    "gelu": F.gelu,
    "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
    "torch.relu": torch.relu,
    "x.sigmoid()": lambda x: x.sigmoid(),
    "x.tanh_()": lambda x: x.clone().tanh_(),
    "relu in place": lambda x: F.relu(x, inplace=True),
    "torch.selu": torch.selu,
    "clamp": lambda x: x.clamp(-0.1, 0.2),
    "clamp, relu": lambda x: torch.clamp(x, min=0),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_functions_are_activations(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    manifest = saved(tmp_path / "m", Around(ACTIVATIONS[name])).manifest
    assert isinstance(manifest.head, MlpHead | ChainHead)
    assert [part.kind for part in manifest.head.parts] == ["linear", "activation", "linear"]


def in_place(x: Tensor) -> Tensor:
    x *= 3
    x += 1
    return x.sub_(0.5)


ROWS: dict[str, Callable[[Around], Callable[[Tensor], Tensor]]] = {
    "constants": lambda _: lambda x: 1 - (x / 2 + 3) * 4,
    "in place": lambda _: in_place,
    "minus": lambda m: lambda x: -x - m.weight,
    "matmul": lambda m: lambda x: torch.matmul(x, m.matrix) + m.weight,
    "flat addmm": lambda m: (
        lambda x: torch.addmm(m.weight, x.flatten(0, 1), m.matrix).view(*x.shape)
    ),
    "linear": lambda m: lambda x: F.linear(x, m.matrix),
    "layer_norm": lambda m: lambda x: F.layer_norm(x, (6,), m.weight, m.mean, 1e-3),
    "rms_norm": lambda m: lambda x: F.rms_norm(x, (6,), weight=m.weight),
    "batch_norm": lambda m: (
        lambda x: F.batch_norm(x.mT, m.mean, m.var, m.weight, m.mean, eps=0.1).mT
    ),
    "prelu": lambda m: lambda x: F.prelu(x.transpose(1, 2), m.weight).transpose(1, 2),
    "skip": lambda _: lambda x: x + torch.relu(x),
    "views": lambda _: (
        lambda x: x[None].squeeze(0).movedim(1, 0)[..., :].unsqueeze(2)[:, :, 0].mT.mT.swapaxes(0, 1)
    ),
    "reshape": lambda _: lambda x: x.reshape(-1, 6).unflatten(0, (x.shape[0], -1)),
    "unbind": lambda _: lambda x: torch.stack([row * 2 for row in x.unbind(1)], dim=1),
    "chunk": lambda _: lambda x: torch.cat([row * 2 for row in x.chunk(x.shape[1], 1)], dim=1),
    "select": lambda _: lambda x: torch.stack([x.select(1, t) for t in range(x.shape[1])], 1),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_forms_of_rows(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    module = Around(torch.relu)
    module.function = ROWS[name](module)
    saved(tmp_path / "m", module)  # compared with the module at every step


class Own(nn.Module):
    """A cell that torch does not have, as people use it."""

    def __init__(self, kind: type[cells.RecurrentLayers]) -> None:
        super().__init__()
        self.cell = kind(4, 8, 2, batch_first=True)
        self.out = nn.Linear(self.cell.spec.width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.cell(x)
        return self.out(y)


def test_weights_that_are_computed_at_each_step_are_the_same(tmp_path: Path) -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.out = (
                nn.GRUCell(3, 4),
                nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)),
            )
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            h, rows = None, []
            for t in range(x.shape[1]):
                h = self.cell(x[:, t], h)
                rows.append(self.out(self.norm(h)) / 3)
            return torch.stack(rows, 1)

    torch.manual_seed(0)
    saved(tmp_path / "m", Loop())


@pytest.mark.parametrize("kind", cells.OWN_MODULES)
def test_own_cells_are_layers(tmp_path: Path, kind: Any) -> None:
    torch.manual_seed(0)
    module = Own(kind)
    model = saved(tmp_path / "m", module)
    assert model.manifest.cell == module.cell.cell


def test_a_rounded_package_is_compared_before_it_is_rounded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = ResidualStack()
    assert saved(tmp_path / "m", module, dtype="bfloat16").manifest.dtype == "bfloat16"
    module.out.register_forward_hook(
        lambda *given: given[-1] + 0.01
    )  # less than bfloat16's tolerance
    with pytest.raises(PackageError, match="would not be the reference"):
        save(tmp_path / "n", model=module, dtype="bfloat16")


def test_other_threads_run_their_modules_meanwhile() -> None:
    """The recorder is in the way of all modules of the process, and records those of its thread only."""
    other = nn.Sequential(nn.Linear(2, 2), nn.Tanh())

    class Waits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            thread = threading.Thread(target=lambda: found.append(other(torch.ones(2))))
            thread.start()
            thread.join()
            return x * 2

    found: list[Tensor] = []
    before = nn.Module.__call__
    graph = record(Waits(), (torch.ones(2),), {})
    assert [node.op for node in graph.nodes] == ["placeholder", "call_function", "output"]
    assert torch.equal(found[0], other(torch.ones(2)))
    assert nn.Module.__call__ is before


def test_a_failing_module_leaves_torch_as_it_was(tmp_path: Path) -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("broken")

    before = nn.Module.__call__
    module = Fails()
    with pytest.raises(RuntimeError, match="broken"):
        record(module, (torch.ones(2),), {})
    assert nn.Module.__call__ is before
    assert module.training


def test_names_and_tokens_go_along(tmp_path: Path) -> None:
    class Bytes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(256, 8)
            self.gru = nn.GRU(8, 8, batch_first=True)
            self.head = nn.Linear(8, 256)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.gru(self.embed(x))[0])

    torch.manual_seed(0)
    manifest = save(tmp_path / "m", model=Bytes(), tokenizer="bytes", eos=10, description="bytes")
    assert (manifest.tokenizer, manifest.eos, manifest.generative) == ("bytes", 10, True)
    assert load(tmp_path / "m").tokenizer is not None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda module: module.to("meta"), "is on the meta device and has no numbers"),
        (lambda module: setattr(module, "out", nn.LazyLinear(2)), "has no shape yet; run the lazy"),
    ],
)
def test_weights_without_numbers_are_refused(tmp_path: Path, spoil: Any, message: str) -> None:
    module = ResidualStack()
    spoil(module)
    with pytest.raises(PackageError, match=message):
        save(tmp_path / "m", model=module)
