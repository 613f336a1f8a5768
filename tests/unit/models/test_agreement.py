"""`save(reference=…)`: the package is what the user has, or the first difference is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from carousel_models import PackageError, load, save
from tests.unit.models.test_exact import OwnForward


class Whole(nn.Module):
    """A model as a user has it: batch or time first, with or without a learnable initial state."""

    def __init__(self, *, batch_first: bool = True, learnable: bool = False) -> None:
        super().__init__()
        self.stack: nn.LSTM = nn.LSTM(3, 4, batch_first=batch_first)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)
        self.h0 = nn.Parameter(torch.full((1, 1, 4), 0.7 if learnable else 0.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        sequences = x.shape[0 if self.stack.batch_first else 1]
        h0 = self.h0.expand(1, sequences, 4).contiguous()
        y, state = self.stack(x, (h0, torch.zeros_like(h0)))
        return self.head(self.drop(y)), state


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def parts(model: Whole) -> dict[str, Any]:
    return {"stack": model.stack, "head": model.head}


def refused(path: Path, message: str, **given: Any) -> str:
    with pytest.raises(PackageError, match=message) as error:
        save(path / "m", **given)
    assert not list(path.iterdir())
    return str(error.value)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_reference_that_agrees_becomes_the_probe(
    tmp_path: Path, dtype: Any, *, batch_first: bool
) -> None:
    model = Whole(batch_first=batch_first).train()
    random = torch.get_rng_state()
    save(tmp_path / "m", **parts(model), dtype=dtype, reference=model)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert model.drop.training
    probe = load_file(tmp_path / "m" / "probe.safetensors")
    assert probe["input"].shape == (32, 3)
    x = probe["input"][None] if batch_first else probe["input"][:, None]
    own = model.eval()(x)[0].squeeze(0 if batch_first else 1).detach()
    torch.testing.assert_close(probe["raw"], own, rtol=1e-5, atol=1e-6)
    load(tmp_path / "m")


def test_a_function_and_a_token_model(tmp_path: Path) -> None:
    embedding, stack = nn.Embedding(9, 3), nn.GRU(3, 4)

    def model(tokens: Tensor) -> Tensor:
        assert tokens.dtype == torch.int64
        rows: Tensor = stack(embedding(tokens).transpose(0, 1))[0].transpose(0, 1)
        return rows

    save(tmp_path / "m", embedding=embedding, stack=stack, reference=model)
    assert load_file(tmp_path / "m" / "probe.safetensors")["input"].dtype == torch.int32
    load(tmp_path / "m")


def test_raw_values_go_to_the_reference(tmp_path: Path) -> None:
    stack = nn.GRU(2, 4, batch_first=True)
    mean, std = torch.tensor([1e4, -5.0]), torch.tensor([2e3, 0.5])
    save(
        tmp_path / "m",
        stack=stack,
        normalization=(mean, std),
        transform="softmax",
        reference=lambda x: stack((x - mean) / std),
    )
    load(tmp_path / "m")


def test_a_bidirectional_model(tmp_path: Path) -> None:
    stack = nn.LSTM(3, 4, bidirectional=True, batch_first=True)
    save(tmp_path / "m", stack=stack, reference=stack)
    refused_stack = nn.LSTM(3, 4, bidirectional=True, batch_first=True)
    (tmp_path / "other").mkdir()
    refused(tmp_path / "other", "differs from step 0", stack=stack, reference=refused_stack)


def test_a_learnable_initial_state_is_noticed(tmp_path: Path) -> None:
    model = Whole(learnable=True)
    text = refused(tmp_path, "would not be the reference", **parts(model), reference=model)
    assert "sequence 0 differs from step 0 on, by 0." in text
    assert "a learnable initial state" in text


def test_the_first_step_that_differs(tmp_path: Path) -> None:
    model = Whole()

    def late(x: Tensor) -> Tensor:
        rows = model.eval()(x)[0].clone()
        rows[1, 7:] += 0.5
        return rows

    refused(tmp_path, r"sequence 1 differs from step 7 on, by 0\.\d+ \(reference \[", **parts(model),
            reference=late)  # fmt: skip


@pytest.mark.parametrize("kind", ["hook", "pre-hook", "subclass", "weight_norm"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_what_is_refused_by_name_is_noticed_by_a_reference(tmp_path: Path, kind: str) -> None:
    model = Whole()
    if kind == "hook":
        model.head.register_forward_hook(lambda _, __, y: 2 * y)
    elif kind == "pre-hook":
        model.stack.register_forward_pre_hook(lambda _, args: (2 * args[0], *args[1:]))
    elif kind == "subclass":
        model.stack = OwnForward(3, 4, batch_first=True)
    else:
        model.head = nn.utils.weight_norm(model.head)
        model(torch.zeros(1, 1, 3))
        with torch.no_grad():
            model.head.weight_g.mul_(3)
    refused(
        tmp_path, "would not be the reference: sequence 0 differs", **parts(model), reference=model
    )


@pytest.mark.parametrize("kind", ["subclass", "hook", "parametrisation"])
def test_with_a_reference_all_is_accepted_that_makes_no_difference(
    tmp_path: Path, kind: str
) -> None:
    class Named(nn.LSTM):
        """A subclass without a forward of its own."""

    model = Whole()
    if kind == "subclass":
        model.stack = Named(3, 4, batch_first=True)
    elif kind == "hook":
        model.head.register_forward_hook(lambda *_: None)
    else:
        nn.utils.parametrizations.weight_norm(model.head)
    with pytest.raises(PackageError, match=r"reference="):
        save(tmp_path / "m", **parts(model))
    save(tmp_path / "m", **parts(model), reference=model)
    load(tmp_path / "m")


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, list])
@pytest.mark.parametrize("one", [True, False])
def test_given_rows(tmp_path: Path, kind: Any, *, one: bool) -> None:
    model = Whole().eval()
    x = torch.randn(2, 5, 3)
    y = model(x)[0].detach()
    inputs, outputs = (x[0], y[0]) if one else (x, y)
    pair = kind(inputs.tolist()), kind(outputs.tolist())
    save(tmp_path / "m", **parts(model), reference=pair)
    probe = load_file(tmp_path / "m" / "probe.safetensors")
    torch.testing.assert_close(probe["input"], x[0])
    torch.testing.assert_close(probe["raw"], y[0])
    load(tmp_path / "m")
    wrong = y.clone()
    wrong[0, 4, 1] += 0.01
    (tmp_path / "other").mkdir()
    refused(
        tmp_path / "other",
        "sequence 0 differs from step 4 on",
        **parts(model),
        reference=(x, wrong),
    )


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ((np.zeros((2, 5, 4)), np.zeros((2, 5, 2))), r"inputs are \[2, 5, 4\]; give \[sequences, steps, 3\]"),
        ((np.zeros((0, 5, 3)), np.zeros((0, 5, 2))), r"inputs are \[0, 5, 3\]"),
        ((np.zeros((1, 0, 3)), np.zeros((1, 0, 2))), "has 0 steps; give 1 to 4096"),
        ((np.zeros((1, 5000, 3)), np.zeros((1, 5000, 2))), "has 5000 steps"),
        ((np.zeros((2, 5, 3)), np.zeros((2, 2))), r"gives \[2, 2\] for x \[2, 5, 3\].* one row per step"),
        ((np.full((1, 5, 3), np.nan), np.zeros((1, 5, 2))), "inputs hold NaN"),
        ((np.zeros((1, 5, 3)), np.full((1, 5, 2), np.inf)), "gives NaN or infinity"),
        ((1, 2, 3), r"a tuple of 3; give \(inputs, outputs\)"),
        (lambda x: x[0, 0], "gives .* for x"),
        (lambda x: x[..., :2] * 1j, "gives torch.complex64; it must give real rows"),
        ((np.zeros((1, 5, 3)), np.zeros((1, 5, 2), np.complex64)), "arrays are complex; give real ones"),
        ((np.ma.masked_array(np.zeros((1, 5, 3)), True), np.zeros((1, 5, 2))), "inputs are a masked array"),
        ((np.zeros((1, 5, 3)), [np.ma.masked_array(np.zeros((5, 2)), True)]), "outputs are a masked array"),
        (([[[1.0] * 3], []], np.zeros((2, 1, 2))), "inputs cannot become a tensor: .*inhomogeneous"),
        ((np.zeros((1, 5, 3)), None), "outputs cannot become a tensor: .* give a tensor, or an array"),
        (lambda _: "text", "gives a str; it must give a tensor of rows"),
        (lambda _: 1 // 0, r"fails on x \[.*\]: ZeroDivisionError"),
    ],
)  # fmt: skip
def test_what_is_no_reference(tmp_path: Path, reference: Any, message: str) -> None:
    refused(tmp_path, message, **parts(Whole()), reference=reference)


@pytest.mark.parametrize("kind", [Tensor.bfloat16, Tensor.half, Tensor.double, Tensor.to_sparse])
def test_tensors_of_any_kind(tmp_path: Path, kind: Any) -> None:
    """Inputs that each of the types has exactly."""
    model, x = Whole().eval(), torch.ones(1, 5, 3)
    save(tmp_path / "pair", **parts(model), reference=(kind(x), model(x)[0]))
    save(tmp_path / "rows", **parts(model), reference=lambda x: model(x)[0].to_sparse())


@pytest.mark.parametrize("scale", [1.005, 1.02])
def test_rounding_hides_no_difference(tmp_path: Path, scale: float) -> None:
    model = Whole().eval()
    refused(
        tmp_path, "sequence 0 differs from step 0 on", **parts(model), dtype="bfloat16",
        reference=lambda x: model(x)[0] * scale,
    )  # fmt: skip


def test_half_weights_may_have_a_reference_of_their_own_precision(tmp_path: Path) -> None:
    model = Whole().eval().bfloat16()
    reference = lambda x: model(x.bfloat16())[0]  # noqa: E731 - as users write it
    save(tmp_path / "m", **parts(model), dtype="bfloat16", reference=reference)


def test_tokens_that_are_not_whole(tmp_path: Path) -> None:
    parts = {"embedding": nn.Embedding(9, 3), "stack": nn.GRU(3, 4)}
    pair = np.array([[1.0, 1.5]]), np.zeros((1, 2, 4))
    refused(tmp_path, "tokens that are not whole", **parts, reference=pair)


def test_tokens_outside_the_vocabulary(tmp_path: Path) -> None:
    parts = {"embedding": nn.Embedding(9, 3), "stack": nn.GRU(3, 4)}
    pair = np.array([[1, 9]]), np.zeros((1, 2, 4))
    refused(tmp_path, "tokens outside 0 … 8", **parts, reference=pair)
    refused(
        tmp_path, r"give \[sequences, steps\]", **parts, reference=(np.zeros((1, 2, 3)), pair[1])
    )
