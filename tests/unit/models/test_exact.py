"""What a package would lose is refused by name, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.utils import parametrizations, parametrize

from carousel_models import PackageError, load, save
from carousel_models.cells import GRUResetBefore


class OwnForward(nn.LSTM):
    """A subclass that scales its input."""

    def forward(self, x: Tensor, state: Any = None) -> Any:
        return super().forward(2 * x, state)


class OwnLinear(nn.Linear):
    """A subclass."""


class OwnNorm(nn.LayerNorm):
    """A subclass."""


class OwnEmbedding(nn.Embedding):
    """A subclass."""


class OwnSequential(nn.Sequential):
    """A subclass."""


class OwnTextbook(GRUResetBefore):
    """A subclass."""


def hooked(module: nn.Module) -> Any:
    module.register_forward_hook(lambda *_: None)
    return module


def pre_hooked(module: nn.Module) -> Any:
    module.register_forward_pre_hook(lambda *_: None)
    return module


def normed(module: nn.Module, name: str = "weight") -> Any:
    return nn.utils.weight_norm(module, name)


def with_parameter(module: nn.Module) -> Any:
    module.register_parameter("h0", nn.Parameter(torch.zeros(4)))
    return module


def with_buffer(module: nn.Module) -> Any:
    module.register_buffer("scale", torch.ones(4))
    return module


def with_own_forward(module: nn.Module) -> Any:
    module.forward = lambda x: x
    return module


class Doubled(nn.Module):
    """A parametrisation."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def parametrised(module: nn.Module, name: str = "weight") -> Any:
    parametrize.register_parametrization(module, name, Doubled())
    return module


GRU = {"stack": nn.GRU(3, 4)}
PARTS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "lstm": (lambda: {"stack": OwnForward(3, 4)}, "the stack is a OwnForward, a subclass of LSTM"),
    "gru": (lambda: {"stack": [nn.GRU(3, 4), OwnTextbook(4, 4)]}, r"stack\[1\] is a OwnTextbook"),
    "linear": (lambda: GRU | {"head": OwnLinear(4, 2)}, "the head is a OwnLinear, a subclass of L"),
    "projection": (
        lambda: {"stack": nn.GRU(5, 4), "projection": OwnLinear(3, 5)},
        "the projection is a OwnLinear",
    ),
    "norm": (lambda: GRU | {"norms": [OwnNorm(4)]}, "norm 0 is a OwnNorm, a subclass of LayerNorm"),
    "embedding": (lambda: GRU | {"embedding": OwnEmbedding(9, 3)}, "embedding is a OwnEmbedding"),
    "sequential": (
        lambda: GRU | {"head": OwnSequential(nn.Linear(4, 2))},
        "the head is a OwnSequential, a subclass of Sequential",
    ),
    "inside": (
        lambda: GRU | {"head": nn.Sequential(OwnLinear(4, 4), nn.Tanh(), nn.Linear(4, 2))},
        r"head\[0\] is a OwnLinear",
    ),
    "hook": (lambda: {"stack": hooked(nn.LSTM(3, 4))}, "the stack has the forward hook hooked"),
    "pre-hook": (lambda: {"stack": pre_hooked(nn.LSTM(3, 4))}, "has the forward hook pre_hooked"),
    "hook of an activation": (
        lambda: GRU | {"head": nn.Sequential(nn.Linear(4, 4), hooked(nn.Tanh()), nn.Linear(4, 2))},
        r"head\[1\] has the forward hook",
    ),
    "hook of the sequence": (
        lambda: GRU | {"head": hooked(nn.Sequential(nn.Linear(4, 2)))},
        "the head has the forward hook",
    ),
    "old weight_norm": (
        lambda: GRU | {"head": normed(nn.Linear(4, 2))},
        "the head has the forward hook WeightNorm.* with torch.nn.utils.remove_weight_norm",
    ),
    "old weight_norm of a stack": (
        lambda: {"stack": normed(nn.GRU(3, 4), "weight_hh_l0")},
        "the stack has the forward hook WeightNorm",
    ),
    "parametrisation": (
        lambda: GRU | {"head": parametrised(nn.Linear(4, 2))},
        "the head has a parametrization of weight, .*remove_parametrizations",
    ),
    "parametrisation of a stack": (
        lambda: {"stack": parametrised(nn.GRU(3, 4), "weight_hh_l0")},
        "the stack has a parametrization of weight_hh_l0",
    ),
    "new weight_norm": (
        lambda: GRU | {"head": parametrizations.weight_norm(nn.Linear(4, 2))},
        "the head has a parametrization of weight",
    ),
    "learnable h0": (lambda: {"stack": with_parameter(nn.GRU(3, 4))}, "the stack holds h0, which a G"),
    "buffer": (lambda: GRU | {"head": with_buffer(nn.Linear(4, 2))}, "the head holds scale, which"),
    "forward of an instance": (
        lambda: GRU | {"head": with_own_forward(nn.Linear(4, 2))},
        "the head has a forward of its own",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(("make", "message"), PARTS.values(), ids=PARTS)
def test_what_a_package_would_lose(
    tmp_path: Path, make: Callable[[], dict[str, Any]], message: str
) -> None:
    with pytest.raises(PackageError, match=message) as refused:
        save(tmp_path / "m", **make())
    assert "or give reference=" in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "register", [register_module_forward_hook, register_module_forward_pre_hook]
)
def test_global_hooks(tmp_path: Path, register: Callable[[Any], Any]) -> None:
    def doubling(*_: object) -> None: ...

    handle = register(doubling)
    try:
        with pytest.raises(PackageError, match=r"global forward hook, .*doubling"):
            save(tmp_path / "m", stack=nn.GRU(3, 4))
    finally:
        handle.remove()
    save(tmp_path / "m", stack=nn.GRU(3, 4))


def test_a_fold_is_all_that_weight_norm_needs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stack, head = nn.GRU(3, 4), parametrizations.weight_norm(nn.Linear(4, 2))
    with torch.no_grad():
        head.parametrizations.weight.original0 *= 3
    x = torch.randn(1, 5, 3)
    expected = head(stack(x.transpose(0, 1))[0]).transpose(0, 1).detach()
    parametrize.remove_parametrizations(head, "weight")
    save(tmp_path / "m", stack=stack, head=head)
    raw, _ = load(tmp_path / "m").sequence(x, torch.tensor([5]))
    torch.testing.assert_close(raw, expected)


@pytest.mark.parametrize("norm_type", [2.0, 1.0])
def test_the_lookups_of_max_norm_are_saved(tmp_path: Path, norm_type: float) -> None:
    torch.manual_seed(0)
    embedding = nn.Embedding(9, 3, max_norm=0.5, norm_type=norm_type)
    stack = nn.GRU(3, 4)
    before = embedding.weight.detach().clone()
    save(tmp_path / "m", embedding=embedding, stack=stack)
    torch.testing.assert_close(embedding.weight, before, rtol=0, atol=0)
    tokens = torch.arange(9)
    raw, _ = load(tmp_path / "m").sequence(tokens[None], torch.tensor([9]))
    torch.testing.assert_close(raw[0], stack(embedding(tokens)[:, None])[0][:, 0].detach())


def meta() -> nn.Linear:
    return nn.Linear(4, 2, device="meta")


def sparse() -> nn.Linear:
    linear = nn.Linear(4, 2)
    linear.weight = nn.Parameter(linear.weight.detach().to_sparse())
    return linear


def whole_numbers() -> nn.Linear:
    linear = nn.Linear(4, 2)
    linear.weight = nn.Parameter(torch.ones(2, 4, dtype=torch.int8), requires_grad=False)
    return linear


def without_weight() -> nn.Linear:
    linear = nn.Linear(4, 2)
    linear.weight = None  # type: ignore[assignment]
    return linear


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"head": nn.Linear(4, 2, dtype=torch.complex64)}, "head.0.weight is complex, and models are"),
        ({"head": meta()}, "head.0.weight is on the meta device"),
        ({"head": sparse()}, r"head.0.weight is torch.sparse_coo; make it dense"),
        ({"head": whole_numbers()}, r"head.0.weight is torch.int8; give weights of floating point"),
        ({"head": without_weight()}, "head.0.weight is a NoneType and no tensor"),
        ({"head": nn.LazyLinear(2)}, "the head is a LazyLinear, a subclass of Linear"),
        ({"head": nn.Bilinear(4, 4, 2)}, "Bilinear'] is not Linear"),
        ({"head": nn.Sequential()}, r"the head \[\] is not Linear"),
        ({"head": nn.ModuleList([nn.Linear(4, 2)])}, "ModuleList'] is not Linear"),
        ({"head": lambda x: x}, "function'] is not Linear"),
        ({"norms": [nn.GroupNorm(2, 4)]}, "the norm is a GroupNorm; give an nn.LayerNorm or an nn.RMS"),
        ({"norms": [nn.BatchNorm1d(4)]}, "the norm is a BatchNorm1d; give an nn.LayerNorm"),
        ({"norms": [nn.LayerNorm((2, 2))]}, r"a norm over \[2, 2\] is not over a row"),
        ({"norms": [nn.LayerNorm(5)]}, "fit together: stack.0.norm.bias"),
        ({"norms": [nn.RMSNorm(5)]}, "fit together: stack.0.after.0.weight"),
        (
            {"head": nn.BatchNorm1d(4, track_running_stats=False)},
            "without running statistics takes those of a batch",
        ),
        ({"embedding": nn.EmbeddingBag(9, 3)}, "the embedding is a EmbeddingBag; give an nn.Embedding"),
        ({"projection": nn.Conv1d(3, 3, 1)}, "the projection is a Conv1d; give an nn.Linear"),
        ({"stack": None}, "there is nothing to save; give model="),
        ({"normalization": (None, None)}, r"normalization must be \(mean, std\)"),
        ({"normalization": ([0.0] * 3,)}, r"normalization must be \(mean, std\)"),
        ({"normalization": (torch.zeros(1, 3), torch.ones(1, 3))}, "with one number per feature"),
        ({"normalization": ("abc", "abc")}, "with one number per feature"),
    ],
)  # fmt: skip
def test_odd_modules(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(PackageError, match=message):
        save(tmp_path / "m", **{"stack": nn.GRU(3, 4), **parts})
    assert not list(tmp_path.iterdir())


def with_value(module: nn.Module, name: str, value: float) -> Any:
    with torch.no_grad():
        getattr(module, name).view(-1)[-1] = value
    return module


def growing() -> nn.RNN:
    rnn = nn.RNN(3, 4, nonlinearity="relu")
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0"):
            getattr(rnn, name).fill_(1e9)
        rnn.bias_ih_l0.fill_(1e9)
    return rnn


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"stack": with_value(nn.GRU(3, 4), "weight_ih_l0", float("nan"))},
            r"stack.0.forward.weight_ih has 1 numbers that are NaN, .* the first at \[11, 2\]",
        ),
        (
            {"head": with_value(nn.Linear(4, 2), "bias", float("-inf"))},
            r"head.0.bias has 1 numbers that are NaN, .* the first at \[1\]",
        ),
        (
            {"head": with_value(nn.Linear(4, 2, dtype=torch.float64), "weight", 1e300)},
            r"head.0.weight has 1 numbers .* too large for torch.float32",
        ),
        ({"normalization": ([0.0] * 3, [1.0, 1e-300, 1.0])}, r"std\[1\] is 1e-300, which float32"),
        ({"normalization": ([0.0] * 3, [1.0, 1e300, 1.0])}, r"std\[1\] is 1e\+300, which float32"),
        ({"normalization": ([0.0, 0.0, 1e39], [1.0] * 3)}, r"mean\[2\] is 1e\+39, beyond float32"),
        ({"stack": growing()}, "output is NaN or infinite at step [0-7] of a random input"),
    ],
)
def test_what_load_would_refuse(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(PackageError, match=message):
        save(tmp_path / "m", **{"stack": nn.GRU(3, 4), **parts})
    assert not list(tmp_path.iterdir())


def test_a_model_that_does_not_reproduce_its_probe_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever load refuses, save refuses, and an older package stays."""
    save(tmp_path / "m", stack=nn.GRU(3, 4))
    before = (tmp_path / "m" / "manifest.json").read_text()
    monkeypatch.setattr("carousel_models.probe._difference", lambda *_: 1.0)
    with pytest.raises(PackageError, match=rf"nothing was written, .* {tmp_path}/m/probe"):
        save(tmp_path / "m", stack=nn.GRU(3, 4), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m" / "manifest.json").read_text() == before
