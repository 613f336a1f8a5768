"""Parts with weights against torch in float64: layers, rows, and convolutions over time and in rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that every torch reader knows

from carousel_models.chain_parts import ConvPart, LayersPart, RowConvPart, RowsPart
from carousel_models.kernels import Reference, choose
from carousel_models.row_parts import ActivationPart, LinearPart, NormPart
from carousel_models.spec import Architecture, FeaturesInput, LinearHead, uniform_stack
from carousel_models.stack import Stack
from carousel_models.states import StateDeclaration
from carousel_models.tensors import TensorInfo, expected_tensors

from .chains import Tensors, check_pieces, made, random_rows, stepped

WIDTH, STEPS = 4, 12


def gru(tensors: Tensors, part: str, x: torch.Tensor) -> torch.Tensor:
    """Rows of torch's GRU in float64."""
    module = nn.GRU(x.shape[-1], 5, 2, batch_first=True).double()
    stored = {
        f"{name}_l{layer}": tensors[f"{part}.{layer}.forward.{name}"]
        for layer in (0, 1)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    module.load_state_dict(stored)
    rows: torch.Tensor = module(x)[0].detach()
    return rows


def conv(tensors: Tensors, part: ConvPart, x: torch.Tensor) -> torch.Tensor:
    """Rows [B, T, channels] of torch's convolution in float64, with zeros in front."""
    padded = F.pad(x.transpose(1, 2), (part.reach, 0))
    weight, bias = tensors[f"{part.name}.weight"], tensors.get(f"{part.name}.bias")
    y = F.conv1d(padded, weight, bias, dilation=part.dilation, groups=part.groups)
    return y.transpose(1, 2)


CONVOLUTIONS = [
    ConvPart(name="c", channels=6, kernel=3),
    ConvPart(name="c", channels=6, kernel=1),
    ConvPart(name="c", channels=6, kernel=3, dilation=2, bias=False),
    ConvPart(name="c", channels=6, kernel=2, groups=2),
    ConvPart(name="c", channels=4, kernel=4, groups=4),
    ConvPart(name="c", channels=8, kernel=3, groups=4, dilation=3),
]


@pytest.mark.parametrize("part", CONVOLUTIONS, ids=str)
def test_a_convolution_over_time_is_torchs(part: ConvPart) -> None:
    model, tensors = made(WIDTH, part)
    x = random_rows(3, STEPS, WIDTH)
    expected = conv(tensors, part, x.double())
    torch.testing.assert_close(stepped(model, x).double(), expected, rtol=1e-5, atol=1e-6)
    check_pieces(model, x, [STEPS, 1, 7])
    check_pieces(model, x, [0, STEPS, 2])


def test_a_convolution_reads_the_slots_of_its_rows() -> None:
    model, _ = made(WIDTH, ConvPart(name="c", channels=6, kernel=3))
    x, slots = random_rows(2, WIDTH), torch.tensor([4, 1])
    (slab,) = state = (random_rows(5, 2, WIDTH, seed=2),)
    before = slab.clone()
    y, (after,) = model.step(x, state, slots)
    expected, (own,) = model.step(x, (slab[slots],))
    assert torch.equal(y, expected)
    assert torch.equal(after, own)
    assert torch.equal(slab, before)


def test_a_convolution_keeps_the_rows_before() -> None:
    model, _ = made(WIDTH, ConvPart(name="c", channels=6, kernel=3, dilation=2))
    assert [(s.name, s.shape) for s in model.state_specs] == [("c.context", (4, WIDTH))]
    assert model.unseen_states == (0,)
    x = random_rows(1, STEPS, WIDTH)
    state = model.sequence(x, torch.tensor([STEPS]))[1]
    assert torch.equal(state[0][0], x[0, -4:])


def test_weights_of_16_bits_round_their_operands() -> None:
    for groups in (1, 2, 4):
        part = ConvPart(name="c", channels=8, kernel=3, groups=groups)
        model, tensors = made(WIDTH, part, dtype="bfloat16")
        x = random_rows(2, STEPS, WIDTH).bfloat16().float()
        expected = conv(tensors, part, x.double())
        torch.testing.assert_close(stepped(model, x).double(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("part", "inputs"),
    [
        (RowConvPart(name="c", channels=3, kernel=3), 1),
        (RowConvPart(name="c", channels=4, kernel=2, inputs=2, stride=2), 2),
        (RowConvPart(name="c", channels=4, kernel=3, inputs=2, padding=2, dilation=2), 2),
        (RowConvPart(name="c", channels=6, kernel=2, inputs=3, groups=3, bias=False), 3),
        (RowConvPart(name="c", channels=2, kernel=12), 1),
    ],
    ids=str,
)
def test_a_convolution_in_a_row_is_torchs(part: RowConvPart, inputs: int) -> None:
    model, tensors = made(12, part)
    x = random_rows(3, 5, 12)
    weight, bias = tensors["c.weight"], tensors.get("c.bias")
    expected = F.conv1d(
        x.double().view(15, inputs, -1), weight, bias, part.stride, part.padding, part.dilation,
        part.groups,
    ).reshape(3, 5, -1)  # fmt: skip
    assert expected.shape[-1] == part.leaves(12)
    torch.testing.assert_close(stepped(model, x).double(), expected, rtol=1e-5, atol=1e-6)
    check_pieces(model, x, [5, 0, 3])


def test_layers_in_a_chain_are_torchs_with_skips_beside_them() -> None:
    """A front, a convolution, a GRU, and a concatenated skip around it."""
    front = RowsPart(name="front", parts=(LinearPart(width=6), ActivationPart(function="relu")))
    parts = (
        front,
        ConvPart(name="conv", channels=5, kernel=3),
        LayersPart(name="gru", layers=uniform_stack("gru", 2, 5)),
        RowsPart(name="end", parts=(NormPart(),), from_=("gru", "front")),
    )
    x = random_rows(2, STEPS, WIDTH)
    for kernel in (Reference(), choose("auto", torch.device("cpu"))):
        model, tensors = made(WIDTH, *parts, kernel=kernel, head=LinearHead(width=3))
        rows = F.relu(x.double() @ tensors["front.0.weight"].T + tensors["front.0.bias"])
        inner = gru(tensors, "gru", conv(tensors, parts[1], rows))  # type: ignore[arg-type]
        joined = torch.cat((inner, rows), dim=-1)
        y = F.layer_norm(joined, (11,), tensors["end.0.weight"], tensors["end.0.bias"])
        expected = y @ tensors["head.0.weight"].T + tensors["head.0.bias"]
        torch.testing.assert_close(stepped(model, x).double(), expected, rtol=1e-4, atol=1e-5)
        check_pieces(model, x, [STEPS, 5])


def test_layers_are_the_same_stack_as_without_parts() -> None:
    """So all that kernels know of layers holds in a chain too."""
    model, _ = made(WIDTH, LayersPart(name="a", layers=uniform_stack("lstm", 2, 5)))
    assert [s.name for s in model.state_specs] == ["a.0.h", "a.0.c", "a.1.h", "a.1.c"]
    assert isinstance(model.stack._stacks[0], Stack)  # type: ignore[attr-defined]
    manifest = model.manifest
    assert (manifest.cell, manifest.hidden, manifest.stack_width) == ("lstm", 5, 5)


def test_tensors_are_named_by_part() -> None:
    parts = (
        RowsPart(name="front", parts=(LinearPart(width=6, bias=False),)),
        ConvPart(name="conv", channels=4, kernel=3, groups=2),
        LayersPart(name="rnn", layers=uniform_stack("rnn_tanh", 1, 5, bias=False)),
    )
    made_of = Architecture(input=FeaturesInput(width=WIDTH), parts=parts, dtype="bfloat16")
    assert expected_tensors(made_of) == {
        "parts.front.0.weight": TensorInfo((6, 4), "bfloat16"),
        "parts.conv.weight": TensorInfo((4, 3, 3), "bfloat16"),
        "parts.conv.bias": TensorInfo((4,), "float32"),
        "parts.rnn.0.forward.weight_ih": TensorInfo((5, 4), "bfloat16"),
        "parts.rnn.0.forward.weight_hh": TensorInfo((5, 5), "bfloat16"),
    }
    assert made_of.states == (
        StateDeclaration(name="conv.context", shape=(2, 6)),
        StateDeclaration(name="rnn.0.h", shape=(5,)),
    )
    dumped = made_of.model_dump_json(by_alias=True)
    assert '"dilation"' not in dumped
    assert Architecture.model_validate_json(dumped) == made_of


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: LayersPart(name="a", layers=()), "at least 1 item"),
        (
            lambda: LayersPart(name="a", layers=uniform_stack("gru", 1, 4, bidirectional=True)),
            "part 'a' has a layer that is not causal",
        ),
        (lambda: ConvPart(name="a", channels=3, kernel=2, groups=2), "3 channels of part 'a' do not"),
        (lambda: ConvPart(name="a", channels=3, kernel=9, dilation=1 << 14), "longer than 65536"),
        (lambda: of(ConvPart(name="a", channels=9, kernel=2, groups=3)), "part 'a': its 4 input channels"),
        (lambda: of(ConvPart(name="a", channels=9, kernel=1 << 16)), None),
        (
            lambda: of(ConvPart(name="a", channels=9, kernel=1 << 16), width=512),
            "part 'a': its window has 33,554,432 numbers",
        ),
        (lambda: of(RowConvPart(name="a", channels=9, kernel=2, inputs=3)), "do not fall into 3 channels"),
        (lambda: of(RowConvPart(name="a", channels=9, kernel=5)), "is longer than a channel of 4"),
        (lambda: of(RowConvPart(name="a", channels=1 << 15, kernel=1)), "would give 131072 numbers"),
        (
            lambda: of(LayersPart(name="a", layers=tuple(
                layer.model_copy(update={"residual": True}) for layer in uniform_stack("gru", 1, 5)
            ))),
            "part 'a': layer 0 is residual but its widths differ: 4 in, 5 out",
        ),
    ],
)  # fmt: skip
def test_parts_that_are_refused(make: Any, problem: str | None) -> None:
    if problem is None:
        make()
        return
    with pytest.raises(ValidationError, match=problem):
        make()


def of(*parts: Any, width: int = WIDTH) -> Architecture:
    return Architecture(input=FeaturesInput(width=width), parts=parts)
