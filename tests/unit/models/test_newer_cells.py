"""Scans, modules and extremes of the cells that torch does not have. tests/parity has their equations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from carousel_models import PackageError, create, load, save
from carousel_models.cells import (
    LRU,
    MLSTM,
    OWN_MODULES,
    SLSTM,
    Diagonal,
    Mamba,
    MinGRU,
    MinLSTM,
    PeepholeLSTM,
    RecurrentLayers,
    code_of,
    run_whole,
)
from carousel_models.cells import scan as scan_module
from carousel_models.cells import whole as whole_module
from carousel_models.cells.scan import linear_scan
from carousel_models.spec import Architecture, FeaturesInput, LayerSpec
from carousel_models.tensors import expected_tensors

OPTIONS: dict[type[RecurrentLayers], dict[str, Any]] = {
    PeepholeLSTM: {"proj_size": 3},
    MinGRU: {"positive": True, "proj_size": 3},
    MinLSTM: {},
    SLSTM: {"heads": 2},
    MLSTM: {"heads": 2},
    LRU: {"skip": True, "proj_size": 5},
    Diagonal: {},
    Mamba: {"proj_size": 5},
}


def module_of(kind: type[RecurrentLayers], **more: Any) -> RecurrentLayers:
    torch.manual_seed(1)
    return kind(5, 8, 2, **OPTIONS.get(kind, {}), **more).double()


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_a_scan_is_the_loop(
    dtype: torch.dtype, steps: int, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "WIDE", 12 if wide else 13)  # a step has 12 numbers
    decay, added = torch.randn(2, steps, 3, 4, dtype=dtype) / 2
    h = start = torch.randn(3, 4, dtype=dtype)
    rows = []
    for a, b in zip(decay, added, strict=True):
        h = a * h + b
        rows.append(h)
    torch.testing.assert_close(linear_scan(decay, added, start), torch.stack(rows))


@pytest.mark.parametrize("kind", OWN_MODULES)
def test_chunks_and_steps_are_the_whole(kind: type[RecurrentLayers]) -> None:
    module = module_of(kind)
    x = torch.randn(70, 3, 5, dtype=torch.float64) * 0.7  # more than a piece of a scan
    with torch.no_grad():
        y, end = module(x)
        first, middle = module(x[:33])
        second, last = module(x[33:], middle)
        rows, state = [], None
        for row in x:
            out, state = module(row[None], state)
            rows.append(out)
    torch.testing.assert_close(torch.cat((first, second)), y, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(torch.cat(rows), y, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(last, end, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(state, end, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        swapped = kind(5, 8, 2, batch_first=True, **OPTIONS.get(kind, {})).double()
        swapped.load_state_dict(module.state_dict())
        torch.testing.assert_close(swapped(x.transpose(0, 1))[0].transpose(0, 1), y)


@pytest.mark.parametrize("kind", OWN_MODULES)
def test_a_scan_has_the_gradients_of_the_loop(
    kind: type[RecurrentLayers], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = module_of(kind)
    x = torch.randn(9, 2, 5, dtype=torch.float64)

    def gradients() -> list[Tensor]:
        module.zero_grad()
        module(x)[0].square().sum().backward()
        return [parameter.grad.clone() for parameter in module.parameters()]  # type: ignore[union-attr]

    found = gradients()
    if module.code.scan is not None:
        monkeypatch.setattr(kind, "code", module.code._replace(scan=None))
    torch.testing.assert_close(found, gradients(), rtol=1e-8, atol=1e-10)
    assert any(gradient.abs().max() > 0 for gradient in found)


@pytest.mark.parametrize("kind", OWN_MODULES)
def test_a_step_that_is_not_finite_leaves_the_steps_before_it(kind: type[RecurrentLayers]) -> None:
    module = module_of(kind)
    x = torch.randn(9, 2, 5, dtype=torch.float64)
    with torch.no_grad():
        clean, _ = module(x)
        for bad in (float("nan"), float("inf"), 1e300):
            dirty = x.clone()
            dirty[6, 0] = bad
            y, _ = module(dirty)
            torch.testing.assert_close(y[:6], clean[:6])
            torch.testing.assert_close(y[:, 1], clean[:, 1])
            assert not math.isnan(bad) or torch.isnan(y[6, 0]).all()


@pytest.mark.parametrize("kind", OWN_MODULES)
def test_under_autocast_the_state_stays_exact(kind: type[RecurrentLayers]) -> None:
    """Products with x in bfloat16, and no more: outputs are near those of float32, and of that type."""
    torch.manual_seed(1)
    module = kind(5, 8, 2, **OPTIONS.get(kind, {}))
    x = torch.randn(30, 3, 5) * 0.7
    exact, _ = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = module(x.bfloat16())
    states = state if isinstance(state, tuple) else (state,)
    assert {y.dtype, *(tensor.dtype for tensor in states)} == {torch.float32}
    torch.testing.assert_close(y, exact, rtol=0.1, atol=0.1)
    assert not torch.equal(y, exact)
    y.sum().backward()


def learns(kind: type[RecurrentLayers], **options: Any) -> float:
    """What is left of the loss after a short training to remember the first input for five steps."""
    torch.manual_seed(0)
    module, head = kind(4, 16, **options), nn.Linear(16, 1)
    optimizer = torch.optim.Adam([*module.parameters(), *head.parameters()], 0.02)
    x = torch.randn(5, 64, 4)
    losses = []
    for _ in range(60):
        loss = (head(module(x)[0][-1]) - x[0, :, :1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[-1] / losses[0]


@pytest.mark.parametrize("kind", [kind for kind in OWN_MODULES if kind is not Diagonal])
def test_it_learns(kind: type[RecurrentLayers]) -> None:
    assert learns(kind) < 0.5


def test_a_first_step_with_nearly_closed_gates_is_finite() -> None:
    """exp(ĩ) is 0 in float32. The m of the formulas begins at −∞, and ours with zero gives the same h."""
    module = SLSTM(1, 4, bias=True)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.get_parameter("bias_ih_l0")[:4] = -300  # the input gates
        module.get_parameter("bias_ih_l0")[8:12] = 0.5
        y, _ = module(torch.zeros(5, 1, 1))
    # All steps add tanh(0.5) with the same weight, so c/n is that, and σ(0) = 1/2.
    np.testing.assert_allclose(y.numpy(), math.tanh(0.5) / 2, rtol=1e-6)


@pytest.mark.parametrize("kind", [SLSTM, MLSTM])
def test_exponents_that_float32_does_not_have(kind: type[RecurrentLayers]) -> None:
    """Sums up to 300: exp(300) is infinite in float32, and not in float64, where no m is needed."""
    torch.manual_seed(0)
    module = kind(3, 4, heads=2)
    gates = {SLSTM: slice(0, 4), MLSTM: slice(16, 18)}[kind]
    with torch.no_grad():
        module.get_parameter("weight_ih_l0")[gates] = 100 * torch.randn_like(
            module.get_parameter("weight_ih_l0")[gates]
        )
    x = torch.randn(40, 1, 3)
    with torch.no_grad():
        y, state = module(x)
    assert all(torch.isfinite(tensor).all() for tensor in state)
    spec = module.spec.model_dump()
    from tests.parity.newer_cells import CELLS  # the formulas, without m

    w = {name: value.detach().double().numpy() for name, value in module.stored(0).items()}
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        expected = np.array(list(CELLS[kind.cell](spec, w, x[:, 0].double().numpy(), {})))
    sums = x[:, 0] @ module.get_parameter("weight_ih_l0")[gates].T
    assert sums.abs().max() > 100
    np.testing.assert_allclose(y[:, 0].numpy(), expected, rtol=2e-3, atol=2e-4)


def test_whole_sequences_of_mlstm_keep_precision_after_a_closed_gate() -> None:
    """A forget gate of σ(−5000): differences of sums of its logarithms would have an error of 0.0005."""
    torch.manual_seed(0)
    module = MLSTM(3, 4)
    with torch.no_grad():
        module.get_parameter("weight_ih_l0")[-1] = torch.tensor([5000.0, 0, 0])
    x = torch.randn(60, 1, 3)
    with torch.no_grad():
        found, wanted = module(x)[0], module.double()(x.double())[0]
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-6)


def test_minlstm_with_both_gates_closed() -> None:
    """f/(f+i) of two gates of σ(−200) is 0/0 in float32. They are equal, so each is a half."""
    module = MinLSTM(1, 2)
    with torch.no_grad():
        module.get_parameter("weight_ih_l0").zero_()
        module.get_parameter("bias_ih_l0").copy_(torch.tensor([4.0, 4, -200, -200, -200, -200]))
        y, _ = module(torch.zeros(3, 1, 1))
    assert y[:, 0, 0].tolist() == [2.0, 3.0, 3.5]


def test_the_linear_recurrent_unit_is_stable_and_begins_in_its_ring() -> None:
    torch.manual_seed(0)
    module = LRU(5, 400, bias=False)
    weights = module.stored(0)
    size = torch.hypot(weights["decay_re"], weights["decay_im"])
    assert size.min() >= 0.9
    assert size.max() <= 0.999
    assert size.min() < 0.93
    assert size.max() > 0.99
    # γ makes a state of the size of the input: the variance of h for white noise is that of B x.
    x = torch.randn(3000, 2, 5)
    with torch.no_grad():
        _, (re, im) = module(x)
    assert 0.5 < float((re.square() + im.square()).mean()) < 2


def test_a_continuous_system_is_discretised_exactly() -> None:
    """Against the integral of the equation with x constant, in small steps of Runge and Kutta."""
    rng = np.random.default_rng(0)
    poles = -rng.uniform(0.1, 1, 4) + 1j * rng.uniform(-3, 3, 4)
    b, c = (
        rng.normal(size=(4, 2)) + 1j * rng.normal(size=(4, 2)),
        rng.normal(size=(3, 4)) * (1 + 1j),
    )
    step, x = rng.uniform(0.05, 0.5, 4), rng.normal(size=(6, 2))
    module = Diagonal.from_continuous(
        *(torch.from_numpy(value) for value in (poles, b, c)), None, torch.from_numpy(step)
    )
    assert module.spec.options == {}
    with torch.no_grad():
        found, _ = module(torch.from_numpy(x).float()[:, None])
    h, expected = np.zeros(4, complex), []
    for row in x:
        d = step / 1000
        for _ in range(1000):
            slope = lambda v: poles * v + b @ row  # noqa: B023, E731 - used at once
            k1 = slope(h)
            k2 = slope(h + d / 2 * k1)
            k3 = slope(h + d / 2 * k2)
            h = h + d / 6 * (k1 + 2 * k2 + 2 * k3 + slope(h + d * k3))
        expected.append((c @ h).real)
    np.testing.assert_allclose(found[:, 0].numpy(), np.array(expected), rtol=1e-5, atol=1e-5)
    with_skip = Diagonal.from_continuous(
        torch.from_numpy(poles), torch.from_numpy(b), torch.ones(2, 4) * (1 + 0j),
        torch.tensor([2.0, 3.0]), torch.tensor(0.1),
    )  # fmt: skip
    assert with_skip.get_parameter("skip_l0").tolist() == [2, 3]


def test_mamba_begins_as_the_paper_says() -> None:
    torch.manual_seed(0)
    module = Mamba(32, 64, bias=False, proj_size=32)
    weights = module.stored(0)
    assert weights["weight_dt"].shape == (64, 2)
    assert weights["weight_x"].shape == (2 + 2 * 16, 64)
    torch.testing.assert_close(torch.exp(weights["rates_log"][7]), torch.arange(1.0, 17))
    delta = nn.functional.softplus(weights["bias_dt"])
    assert 1e-3 <= delta.min() < 4e-3
    assert 0.03 < delta.max() <= 0.1
    assert "bias_in" not in weights


def test_long_sequences_are_scanned_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    module, seen = MinGRU(2, 3), list[int]()
    scan = code_of("min_gru").scan
    assert scan is not None

    def counted(share: Tensor, state: Any, w: Any) -> Any:
        seen.append(len(share))
        return scan(share, state, w)

    monkeypatch.setattr(whole_module, "PIECE_STEPS", 10)
    weights = module.code.prepare(module.spec, module.stored(0))
    share = module.code.share(torch.randn(25, 1, 2), weights)
    run_whole(module.code._replace(scan=counted), share, (torch.zeros(1, 3),), weights)
    assert seen == [10, 10, 5]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cell": "mlstm", "hidden": 8, "options": {"heads": 3}}, "3 heads do not divide hidden=8"),
        ({"cell": "slstm", "hidden": 8, "options": {"heads": 9}}, "9 heads do not divide hidden=8"),
        ({"cell": "mlstm", "hidden": 8192}, "state C of this mlstm would have 67,108,864 elements"),
        ({"cell": "mamba", "hidden": 8, "options": {"conv_width": 1}}, "conv_width of mamba is 2 or more"),
        ({"cell": "gru", "hidden": 8, "options": {"peepholes": True}}, "gru has no option 'peepholes'"),
        ({"cell": "slstm", "hidden": 8, "proj_size": 2}, "proj_size is an option of lstm, "),
    ],
)  # fmt: skip
def test_layers_that_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerSpec(**fields)


def test_a_layer_is_bidirectional_or_backward() -> None:
    with pytest.raises(ValueError, match="bidirectional or backward, not both"):
        LayerSpec(cell="gru", hidden=8, bidirectional=True, backward=True)
    layer = LayerSpec(cell="gru", hidden=8, backward=True)
    assert not layer.causal
    assert layer.width == 8
    assert layer.model_dump()["backward"]
    assert "backward" not in LayerSpec(cell="gru", hidden=8).model_dump()
    architecture = Architecture(input=FeaturesInput(width=3), stack=(layer,))
    assert architecture.states == ()
    assert "stack.0.backward.weight_ih" in expected_tensors(architecture)
    assert "stack.0.forward.weight_ih" not in expected_tensors(architecture)


def test_what_is_added_to_the_output_must_be_as_wide() -> None:
    layer = LayerSpec(cell="diagonal", hidden=8, options={"skip": True})
    Architecture(input=FeaturesInput(width=8), stack=(layer,))
    with pytest.raises(
        ValueError, match=r"diagonal with skip\) but their widths differ: 5 in, 8 out"
    ):
        Architecture(input=FeaturesInput(width=5), stack=(layer,))


def test_a_package_keeps_the_options_and_float32_where_no_product_is(tmp_path: Any) -> None:
    create(
        "m", cell="mamba", hidden=6, proj_size=4, input="features:3", dtype="bf16", dir=tmp_path,
        options={"state_size": 5, "conv_width": 4},
    )  # fmt: skip
    model = load(tmp_path / "m")
    (layer,) = model.manifest.stack
    assert layer.options == {"state_size": 5}  # 4 is the default of the other one
    assert [(spec.name, spec.shape) for spec in model.state_specs] == [
        ("0.conv", (6, 3)),
        ("0.ssm", (6, 5)),
    ]
    weights = model.stack.layers[0].weights[0]  # type: ignore[attr-defined]
    assert {weights.weight_in.dtype, weights.weight_out.dtype} == {torch.bfloat16}
    assert {weights.conv.dtype, weights.rates.dtype, weights.skip.dtype} == {torch.float32}
    with pytest.raises(PackageError, match=r"(?s)no such model: .*mamba has no option 'heads'"):
        create("n", cell="mamba", options={"heads": 2}, dir=tmp_path)


class OwnMinGRU(MinGRU):
    """A subclass."""


def test_what_a_package_would_lose_is_refused(tmp_path: Any) -> None:
    with pytest.raises(PackageError, match="the stack is a OwnMinGRU, a subclass of MinGRU"):
        save(tmp_path / "m", stack=OwnMinGRU(3, 4))
    module = MinGRU(3, 4)
    module.register_buffer("scale", torch.ones(4))
    with pytest.raises(PackageError, match="the stack holds scale"):
        save(tmp_path / "m", stack=module)
    assert not list(tmp_path.iterdir())
