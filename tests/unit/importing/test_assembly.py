"""Chains of operations as packages, against the operations in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from carousel_models import PackageError
from carousel_models.importing.assembly import assemble
from carousel_models.importing.folding import folded
from carousel_models.importing.ops import (
    Activate,
    Array,
    Chain,
    Direction,
    Linear,
    Norm,
    Op,
    PRelu,
    Recur,
    Scale,
    Skip,
    ToOutput,
)
from carousel_models.loading import build
from carousel_models.probe import run_steps
from carousel_models.spec import Manifest


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def linear(width: int, out: int, bias: bool = True, seed: int = 0) -> Linear:
    made = rng(seed)
    return Linear(made.normal(size=(out, width)), made.normal(size=out) if bias else None)


def scale(width: int, seed: int = 1) -> Scale:
    made = rng(seed)
    return Scale(made.normal(size=width), made.normal(size=width))


def recur(width: int, hidden: int = 4, bias: bool = True, seed: int = 2) -> Recur:
    made = rng(seed)
    sizes = (made.normal(0, 0.5, (hidden, width)), made.normal(0, 0.5, (hidden, hidden)))
    biases = tuple(made.normal(0, 0.5, hidden) if bias else None for _ in range(2))
    return Recur("rnn_tanh", (Direction(*sizes, *biases),))


def computed(ops: tuple[Op, ...], x: Array) -> Array:  # noqa: C901 - one case for each operation
    """The operations on x[T, width], in float64."""
    for op in ops:
        match op:
            case Linear(weight=w, bias=b):
                x = x @ w.T + (0 if b is None else b)
            case Scale(factor=factor, shift=shift):
                x = x * factor + shift
            case Activate(name="relu"):
                x = np.maximum(x, 0)
            case Activate(name="tanh"):
                x = np.tanh(x)
            case Activate(name="leaky_relu", options=options):
                x = np.where(x > 0, x, options["negative_slope"] * x)
            case PRelu(slopes=slopes):
                x = np.where(x > 0, x, slopes * x)
            case Norm(kind="layer", weight=w, bias=b, eps=eps):
                mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
                x = (x - mean) / np.sqrt(var + eps) * (1 if w is None else w) + (
                    0 if b is None else b
                )
            case Skip(ops=inner):
                x = x + computed(inner, x)
            case Recur(directions=(d,)):
                x = rnn(d, x)
            case unknown:
                raise AssertionError(unknown)
    return x


def rnn(d: Direction, x: Array) -> Array:
    h = np.zeros(len(d.weight_hh))
    bias = 0 if d.bias_ih is None or d.bias_hh is None else d.bias_ih + d.bias_hh
    rows = []
    for row in x:
        h = np.tanh(d.weight_ih @ row + d.weight_hh @ h + bias)
        rows.append(h)
    return np.array(rows)


def served(chain: Chain) -> tuple[Manifest, Any]:
    parts, tensors = assemble(chain)
    manifest = Manifest(name="m", fingerprint="0" * 64, **parts)
    return manifest, build(manifest, tensors)


LAYER_NORM = Norm("layer", rng(5).normal(size=4), rng(6).normal(size=4), 1e-5)

CHAINS: dict[str, tuple[tuple[Op, ...], int, str]] = {
    "plain": ((recur(3),), 3, "none"),
    "head": ((recur(3), linear(4, 2)), 3, "linear"),
    "projection": ((linear(3, 5, bias=False), recur(5)), 3, "none"),
    "two linear": ((linear(3, 5), linear(5, 6, bias=False), recur(6)), 3, "none"),
    "front": ((linear(3, 5), Activate("relu"), recur(5)), 3, "none"),
    "linear between": ((recur(3), linear(4, 2, seed=3), recur(2, bias=False)), 3, "none"),
    "scale between": ((recur(3), scale(4), recur(4, bias=False)), 3, "none"),
    "negative scale of the input": ((scale(3), recur(3)), 3, "none"),
    "scales": ((recur(3), scale(4), scale(4, seed=9), linear(4, 2), scale(2)), 3, "linear"),
    "scale at the end": ((recur(3), scale(4)), 3, "chain"),
    "mlp": ((recur(3), linear(4, 5), Activate("tanh"), linear(5, 2)), 3, "mlp"),
    "mixed biases": ((recur(3), linear(4, 5, bias=False), Activate("tanh"), linear(5, 2)), 3, "chain"),
    "options": ((recur(3), linear(4, 5), Activate("leaky_relu", {"negative_slope": 0.3}), linear(5, 2)),
                3, "chain"),
    "activation at the end": ((recur(3), linear(4, 5), Activate("relu")), 3, "chain"),
    "prelu": ((recur(3), PRelu(np.array([0.1, 0.2, 0.3, 0.4]))), 3, "chain"),
    "norm": ((recur(3), LAYER_NORM, linear(4, 2)), 3, "linear"),
    "norm with eps": ((recur(3), Norm("layer", None, None, 1e-2), recur(4)), 3, "none"),
    "residual": ((Skip((recur(4),)), LAYER_NORM), 4, "none"),
    "norm, cell, scale": ((recur(3), Skip((LAYER_NORM, recur(4), scale(4))), linear(4, 2)), 3, "linear"),
    "skip in the head": ((recur(3), Skip((linear(4, 4), Activate("relu"))), linear(4, 2)), 3, "chain"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_a_package_computes_its_chain(name: str) -> None:
    ops, width, head = CHAINS[name]
    manifest, model = served(Chain(ops))
    assert manifest.head.kind == head
    assert manifest.input.raw_width == width
    x = rng(7).normal(size=(12, width)).astype(np.float32)
    rows = run_steps(model, torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(rows, computed(ops, x.astype(np.float64)), rtol=1e-4, atol=1e-5)


def test_what_can_be_folded_is_gone() -> None:
    ops = (recur(3), scale(4), linear(4, 5), scale(5), recur(5), scale(4), linear(4, 2), scale(2))
    kinds = [type(op) for op in folded(Chain(ops)).ops]
    assert kinds == [Recur, Recur, Linear]


def test_a_positive_scale_of_features_is_their_normalization() -> None:
    factor, shift = np.array([0.5, 2.0]), np.array([1.0, -3.0])
    manifest, model = served(Chain((Scale(factor, shift), recur(2))))
    constants = getattr(manifest.input, "normalization", None)
    assert constants is not None
    assert (constants.mean, constants.std) == ((-2.0, 1.5), (2.0, 0.5))
    x = rng(7).normal(size=(12, 2))
    rows = run_steps(model, torch.tensor(x, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(rows, rnn(recur(2).directions[0], x * factor + shift), atol=1e-5)


def test_a_scale_of_tokens_is_in_their_embedding() -> None:
    table = rng().normal(size=(7, 3))
    chain = Chain((scale(3), recur(3)), embedding=table)
    manifest, model = served(chain)
    assert manifest.vocabulary == 7
    assert not getattr(manifest.input, "front", ())
    tokens = rng(7).integers(7, size=12)
    rows = run_steps(model, torch.tensor(tokens, dtype=torch.int32)).numpy()
    np.testing.assert_allclose(rows, computed(chain.ops, table[tokens]), atol=1e-5)


@pytest.mark.parametrize("name", ["sigmoid", "softmax"])
def test_the_last_operation_may_be_a_transform(name: str) -> None:
    last = Activate(name) if name == "sigmoid" else ToOutput(name)
    manifest, _ = served(Chain((recur(3), linear(4, 2), last)))
    assert manifest.output.transform == name
    assert manifest.head.kind == "linear"


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_both_directions_and_the_projection_of_an_lstm() -> None:
    torch.manual_seed(0)
    module = nn.LSTM(3, 4, bidirectional=True, proj_size=2, batch_first=True)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    directions = tuple(
        Direction(*(getattr(module, f"{name}_l0{end}").detach().numpy() for name in names))
        for end in ("", "_reverse")
    )
    manifest, model = served(Chain((Recur("lstm", directions),)))
    (layer,) = manifest.stack
    assert (layer.hidden, layer.proj_size, layer.bidirectional) == (4, 2, True)
    x = torch.randn(2, 6, 3)
    found, _ = model.sequence(x, torch.tensor([6, 6]))
    torch.testing.assert_close(found, module(x)[0])


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ((linear(3, 2),), "has no recurrent layer"),
        ((recur(3), ToOutput("softmax"), linear(4, 2)), "softmax is not the last operation"),
        (
            (Scale(np.full(3, 1e39), np.zeros(3)), recur(3)),
            r"do not make a model: .*std\[0\] is 1e-39",
        ),
        ((recur(3), Activate("maxout")), "do not make a model: function: Input should be"),
        ((Skip((recur(4), recur(4))),), "around 2 recurrent layers"),
        ((Skip((Skip((recur(4),)),)),), "around 1 recurrent layers and more residuals"),
        (
            (recur(3), Skip((Skip((linear(4, 4),)), scale(4)))),
            "a residual is inside of another one",
        ),
    ],
)
def test_refusals(ops: tuple[Op, ...], message: str) -> None:
    with pytest.raises(PackageError, match=message):
        assemble(Chain(ops))


def test_a_package_of_a_chain_can_be_written(tmp_path: Path) -> None:
    from carousel_models.writing import write

    parts, tensors = assemble(Chain(CHAINS["norm, cell, scale"][0]))
    manifest = Manifest(name="m", fingerprint="0" * 64, **parts)
    assert write(tmp_path / "m", manifest, tensors).stack[1].residual
