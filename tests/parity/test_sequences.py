"""Steps, chunks and padded batches are the same computation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carousel_models import Manifest, RecurrentModel
from carousel_models.creating import random_tensors
from carousel_models.loading import build
from carousel_models.spec import (
    FeaturesInput,
    LayerSpec,
    LinearHead,
    NoHead,
    TokensInput,
    uniform_stack,
)
from carousel_models.stack import Stack
from carousel_models.tensors import expected_tensors
from tests.parity.conftest import CELLS, TOLERANCE, difference, random_input, run_steps, run_whole


def make_model(seed: int = 0, **fields: Any) -> RecurrentModel:
    fields.setdefault("input", FeaturesInput(width=4))
    manifest = Manifest(name="m", fingerprint="0" * 64, **fields)
    infos, tensors = expected_tensors(manifest), random_tensors(manifest, seed)
    return build(manifest, {k: v.to(getattr(torch, infos[k].dtype)) for k, v in tensors.items()})


def batch_of(model: RecurrentModel, lengths: list[int], fill: float) -> torch.Tensor:
    """Padded float32[N, T, F] with `fill` past each length."""
    longest = max(lengths)
    x = np.stack([random_input(model.manifest, longest, seed) for seed in range(len(lengths))])
    for row, length in zip(x, lengths, strict=True):
        row[length:] = fill
    return torch.from_numpy(x)


@st.composite
def architectures(draw: st.DrawFn) -> dict[str, Any]:
    """Any stack of up to three layers of any kind, with any input, head and type."""
    width = draw(st.integers(1, 6))
    source = draw(
        st.sampled_from([FeaturesInput(width=width), TokensInput(vocabulary=9, embedding=width)])
    )
    layers = []
    for _ in range(draw(st.integers(1, 3))):
        cell, hidden = draw(st.sampled_from(CELLS)), draw(st.integers(2, 8))
        layer = LayerSpec(
            cell=cell,
            hidden=hidden,
            bias=draw(st.booleans()),
            bidirectional=draw(st.integers(0, 3)) == 0,
            proj_size=draw(st.integers(0, hidden - 1)) if cell == "lstm" else 0,
            layer_norm=draw(st.booleans()),
        )
        if layer.width == width and draw(st.booleans()):
            layer = layer.model_copy(update={"residual": True})
        layers.append(layer)
        width = layer.width
    return {
        "input": source,
        "stack": tuple(layers),
        "head": draw(st.sampled_from([NoHead(), LinearHead(width=3)])),
        "dtype": draw(st.sampled_from(["float32", "bfloat16"])),
    }


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    fields=architectures(),
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    cut=st.integers(0, 9),
)
def test_any_architecture_any_lengths(fields: dict[str, Any], lengths: list[int], cut: int) -> None:
    model = make_model(**fields)
    # A norm over few numbers may divide by almost nothing and blow rounding up.
    tolerance = TOLERANCE[model.manifest.dtype] * (
        20 if any(layer.layer_norm for layer in model.manifest.stack) else 1
    )
    x = torch.from_numpy(
        np.stack([random_input(model.manifest, 9, s) for s in range(len(lengths))])
    )
    counts = torch.tensor(lengths)
    raw, state = model.sequence(x, counts)
    for row, length, full in zip(x, lengths, raw, strict=True):
        assert not full[length:].any()
        if length:
            alone = run_whole(model, row[:length].numpy())
            assert difference(full[:length].detach().numpy(), alone) <= tolerance
    if not model.causal:
        assert state == ()
        return
    first, middle = model.sequence(x[:, :cut], counts.clamp(max=cut))
    second, end = model.sequence(x[:, cut:], (counts - cut).clamp(min=0), middle)
    assert difference(torch.cat((first, second), 1).numpy(), raw.numpy()) <= tolerance
    for found, wanted in zip(end, state, strict=True):
        assert difference(found.numpy(), wanted.numpy()) <= tolerance


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_padding_never_leaks(cell: Any, bidirectional: bool) -> None:
    model = make_model(stack=uniform_stack(cell, 2, 6, bidirectional=bidirectional))
    lengths = [5, 2, 8, 0]
    clean, state = model.sequence(batch_of(model, lengths, 0.0), torch.tensor(lengths))
    dirty, dirty_state = model.sequence(
        batch_of(model, lengths, float("nan")), torch.tensor(lengths)
    )
    assert torch.equal(clean, dirty)
    assert all(torch.equal(a, b) for a, b in zip(state, dirty_state, strict=True))


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"bias": False}], ids=str)
@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "lstm", "gru"])
def test_torchs_fused_layer_equals_the_loop(cell: Any, options: dict[str, Any]) -> None:
    model = make_model(stack=uniform_stack(cell, 2, 6, **options))
    x, lengths = batch_of(model, [5, 2, 8, 0], 0.0), torch.tensor([5, 2, 8, 0])
    fused, fused_state = model.sequence(x, lengths)
    assert isinstance(model.stack, Stack)
    for layer in model.stack.layers:
        assert layer._fused is not None
        layer._fused = None
    plain, plain_state = model.sequence(x, lengths)
    torch.testing.assert_close(fused, plain, rtol=1e-6, atol=1e-6)
    for found, wanted in zip(fused_state, plain_state, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cell", CELLS)
def test_steps_in_a_batch_equal_steps_alone(cell: Any, dtype: str) -> None:
    model = make_model(stack=uniform_stack(cell, 2, 6), dtype=dtype)
    x = batch_of(model, [7, 7, 7], 0.0)
    state, rows = model.initial_state(3), []
    with torch.inference_mode():
        for step in x.transpose(0, 1):
            raw, state = model.step(step, state)
            rows.append(raw)
    together = torch.stack(rows, 1).numpy()
    for number in range(3):
        assert difference(together[number], run_steps(model, x[number].numpy())) <= TOLERANCE[dtype]


@pytest.mark.parametrize("cell", CELLS)
def test_step_is_pure_and_keeps_a_nan_in_its_row(cell: Any) -> None:
    model = make_model(stack=uniform_stack(cell, 2, 6))
    x, state = torch.randn(3, 4), tuple(torch.rand(3, *s.shape) for s in model.state_specs)
    before = [tensor.clone() for tensor in (x, *state)]
    clean, clean_state = model.step(x, state)
    assert all(torch.equal(a, b) for a, b in zip(before, (x, *state), strict=True))
    x[1] = float("nan")
    raw, new = model.step(x, state)
    assert torch.isnan(raw[1]).all()
    for dirty, wanted in zip((raw, *new), (clean, *clean_state), strict=True):
        assert torch.equal(dirty[[0, 2]], wanted[[0, 2]])


def test_nothing_to_run_keeps_the_state() -> None:
    model = make_model(stack=uniform_stack("lstm", 1, 6))
    state = tuple(torch.rand(2, 6) for _ in range(2))
    raw, after = model.sequence(torch.zeros(2, 3, 4), torch.tensor([0, 0]), state)
    assert raw.shape == (2, 3, 6)
    assert not raw.any()
    assert all(torch.equal(a, b) for a, b in zip(state, after, strict=True))


@pytest.mark.parametrize("way", ["bidirectional", "backward"])
def test_a_model_that_is_not_causal_cannot_step(way: str) -> None:
    model = make_model(stack=(LayerSpec(cell="gru", hidden=6, **{way: True}),))  # type: ignore[arg-type]
    assert not model.causal
    assert model.state_specs == ()
    assert model.state_bytes == 0
    with pytest.raises(ValueError, match=r"not causal.*whole sequences"):
        model.step(torch.zeros(1, 4), ())


def test_bfloat16_keeps_its_state_in_float32() -> None:
    model = make_model(stack=uniform_stack("lstm", 2, 6), dtype="bfloat16")
    raw, state = model.step(torch.randn(2, 4), model.initial_state(2))
    assert raw.dtype == torch.float32
    assert {tensor.dtype for tensor in state} == {torch.float32}
    assert [spec.name for spec in model.state_specs] == ["0.h", "0.c", "1.h", "1.c"]
    assert model.state_bytes == 4 * 6 * 4
    # The state is not rounded between steps: it has bits that bfloat16 cannot hold.
    assert any(not torch.equal(t, t.bfloat16().float()) for t in state)
