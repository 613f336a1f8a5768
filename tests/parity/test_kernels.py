"""The native kernel: the reference's numbers, and a row's bits the same in any company."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from carousel_models import Manifest, RecurrentModel
from carousel_models.cell_facts import FACTS
from carousel_models.creating import random_tensors
from carousel_models.errors import KernelError
from carousel_models.kernels import Kernel, Reference, choose
from carousel_models.loading import build
from carousel_models.spec import (
    FeaturesInput,
    LayerSpec,
    LinearHead,
    MlpHead,
    Output,
    Projection,
    SelectTopK,
    uniform_stack,
)
from carousel_models.tensors import expected_tensors

CELLS: list[Any] = [cell for cell, facts in FACTS.items() if "cpu" in facts.kernels]
OTHERS: list[Any] = [cell for cell in FACTS if cell not in CELLS]
DTYPES = ["float32", "bfloat16"]
WIDTH = 7
# float32: another order of sums. bfloat16: the reference rounds its products to 8 bits, the kernel does not.
TOLERANCE = {"float32": 1e-5, "bfloat16": 4e-2}


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    try:
        return choose("cpu", torch.device("cpu"))
    except KernelError as unavailable:
        pytest.skip(f"the cpu kernel: {unavailable}")


def make_model(kernel: Kernel, **fields: Any) -> RecurrentModel:
    fields.setdefault("input", FeaturesInput(width=WIDTH))
    manifest = Manifest(name="m", fingerprint="0" * 64, **fields)
    infos = expected_tensors(manifest)
    tensors = {
        name: tensor.to(getattr(torch, infos[name].dtype))
        for name, tensor in random_tensors(manifest, 0).items()
    }
    return build(manifest, tensors, kernel=kernel)


def inputs(model: RecurrentModel, batch: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    random = torch.Generator().manual_seed(batch)
    x = torch.randn(batch, WIDTH, generator=random)
    return x, tuple(torch.randn(batch, *s.shape, generator=random) for s in model.state_specs)


def everything(cell: Any, dtype: str) -> dict[str, Any]:
    """All that surrounds a layer: projections, sizes off the vectors' width, residual, norm, MLP head."""
    return {
        "input": FeaturesInput(width=WIDTH, projection=Projection(width=19)),
        "stack": (
            LayerSpec(cell=cell, hidden=19, residual=True, layer_norm=True),
            LayerSpec(cell=cell, hidden=45, bias=False),
            LayerSpec(cell="lstm", hidden=33, proj_size=10),
        ),
        "head": MlpHead(hidden=(37,), width=9, activation="tanh"),
        "output": Output(transform="softmax", select=SelectTopK(k=3)),
        "dtype": dtype,
    }


def everything_of(model: RecurrentModel, x: Tensor, state: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.inference_mode():
        raw, after = model.step(x, state)
        return [raw, *after, *model.finish(raw)]


@st.composite
def layers(draw: st.DrawFn) -> LayerSpec:
    cell, hidden = draw(st.sampled_from(CELLS)), draw(st.integers(1, 70))
    return LayerSpec(
        cell=cell,
        hidden=hidden,
        bias=draw(st.booleans()),
        proj_size=draw(st.integers(0, hidden - 1)) if cell == "lstm" else 0,
        layer_norm=draw(st.booleans()),
    )


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    stack=st.lists(layers(), min_size=1, max_size=3),
    dtype=st.sampled_from(DTYPES),
    batch=st.integers(1, 40),
)
def test_any_stack_steps_as_by_the_reference(
    kernel: Kernel, stack: list[LayerSpec], dtype: str, batch: int
) -> None:
    fields = {"stack": tuple(stack), "head": LinearHead(width=5), "dtype": dtype}
    native, plain = make_model(kernel, **fields), make_model(Reference(), **fields)
    assert native.batch_invariant
    assert not plain.batch_invariant
    x, state = inputs(native, batch)
    raw, after = native.step(x, state)
    wanted, wanted_after = plain.step(x, state)
    # A norm over few numbers may divide by almost nothing and blow rounding up.
    tolerance = TOLERANCE[dtype] * (50 if any(layer.layer_norm for layer in stack) else 1)
    torch.testing.assert_close(raw, wanted, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(after, wanted_after, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_rows_bits_are_the_same_in_any_batch(kernel: Kernel, cell: Any, dtype: str) -> None:
    model = make_model(kernel, **everything(cell, dtype))
    assert model.batch_invariant
    x, state = inputs(model, 300)  # more than the kernel takes at a time
    together = everything_of(model, x, state)
    for first, last in [(i, i + 1) for i in range(0, 300, 23)] + [(0, n) for n in range(2, 30)]:
        alone = everything_of(model, x[first:last], tuple(s[first:last] for s in state))
        for part, whole in zip(alone, together, strict=True):
            assert torch.equal(part, whole[first:last]), (first, last)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_rows_bits_are_the_same_by_any_number_of_threads(
    kernel: Kernel, cell: Any, dtype: str
) -> None:
    model = make_model(kernel, stack=uniform_stack(cell, 1, 200), dtype=dtype)
    x, state = inputs(model, 64)
    before = torch.get_num_threads()
    try:
        by_threads = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            by_threads.append(everything_of(model, x, state))
    finally:
        torch.set_num_threads(before)
    for others in by_threads[1:]:
        assert all(torch.equal(a, b) for a, b in zip(by_threads[0], others, strict=True))


@pytest.mark.parametrize("most", [3, 40, 300])  # of which a stretch of time has many, some, and one
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_whole_sequences_have_the_bits_of_steps(
    kernel: Kernel, cell: Any, dtype: str, most: int
) -> None:
    model = make_model(kernel, **everything(cell, dtype))
    random = torch.Generator().manual_seed(most)
    lengths = torch.randint(0, 12, (most,), generator=random)
    x = torch.randn(most, 12, WIDTH, generator=random)
    _, state = inputs(model, most)
    before = [tensor.clone() for tensor in state]
    raw, after = model.sequence(x, lengths, state)
    assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))
    for step in range(12):
        running = (lengths > step).nonzero()[:, 0]
        wanted, new = model.step(x[running, step], tuple(tensor[running] for tensor in state))
        state = tuple(s.index_copy(0, running, n) for s, n in zip(state, new, strict=True))
        assert torch.equal(raw[running, step], wanted)
    assert all(torch.equal(a, b) for a, b in zip(after, state, strict=True))


def test_threads_do_not_change_a_sequences_bits(kernel: Kernel) -> None:
    model = make_model(kernel, stack=uniform_stack("gru", 2, 200))
    x, lengths = torch.randn(70, 9, WIDTH), torch.arange(70) % 10
    before = torch.get_num_threads()
    try:
        by_threads = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            raw, state = model.sequence(x, lengths)
            by_threads.append((raw, *state))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*by_threads, strict=True))


def test_sequences_are_checked_before_addresses_are_taken(kernel: Kernel) -> None:
    model = make_model(kernel, stack=uniform_stack("lstm", 1, 21))
    x, (h, c) = torch.randn(5, WIDTH), model.initial_state(3)
    for rows, sizes, state in [
        (x, (3, 3), (h, c)),
        (x, (2, 3), (h, c)),
        (x, (4, 1), (h, c)),
        (x, (5, 0), (h, c)),
        (x[:, :3], (3, 2), (h, c)),
        (x, (3, 2), (h[:, :5], c)),
        (x.double(), (3, 2), (h, c)),
    ]:
        with pytest.raises((TypeError, ValueError)):
            model.packed(rows, sizes, state)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_not_finite_stays_in_its_row(
    kernel: Kernel, cell: Any, dtype: str, bad: float
) -> None:
    model = make_model(kernel, stack=uniform_stack(cell, 2, 21), dtype=dtype)
    x, state = inputs(model, 9)
    clean = everything_of(model, x, state)
    for place in (x[4], *(s[4] for s in state)):
        place[0] = bad
    dirty = everything_of(model, x, state)
    others = [row for row in range(9) if row != 4]
    assert not all(torch.isfinite(t[4]).all() and torch.equal(t[4], c[4])
                   for t, c in zip(dirty, clean, strict=True))  # fmt: skip
    assert all(torch.equal(d[others], c[others]) for d, c in zip(dirty, clean, strict=True))
    if math.isnan(bad):  # it must not be lost on the way
        assert all(torch.isnan(tensor[4]).any() for tensor in dirty)


NANS = [0x7FC00000, 0x7FC00001, 0x7FE0ABCD, 0x7FFFFFFF, 0x7F800001, -0x00400000, -1]
INFINITIES = [0x7F800000, -0x00800000]


@pytest.mark.parametrize("bits", [*NANS, *INFINITIES], ids=lambda bits: f"{bits & 0xFFFFFFFF:x}")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_no_number_becomes_none(kernel: Kernel, cell: Any, dtype: str, bits: int) -> None:
    """Whatever a NaN's payload, and wherever it comes from: where the reference has NaN, so has this.

    Infinities come as inputs only: in a state they meet a shut gate, 0 for one and almost 0 for the other.
    """
    fields = {"stack": (LayerSpec(cell=cell, hidden=45),), "dtype": dtype}
    native, plain = make_model(kernel, **fields), make_model(Reference(), **fields)
    bad = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    tolerance = TOLERANCE[dtype]
    for place in range(1 + len(native.state_specs) * (bits in NANS)):
        x, state = inputs(native, 3)
        (x, *state)[place][1, 2] = bad
        found, right = native.step(x, state), plain.step(x, state)
        for got, want in zip((found[0], *found[1]), (right[0], *right[1]), strict=True):
            torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance, equal_nan=True)
        if bits in NANS and place < 2:  # all gates of the row depend on it
            assert torch.isnan(found[0][1]).all()


@pytest.mark.parametrize("cell", CELLS)
def test_saturated_gates(kernel: Kernel, cell: Any) -> None:
    """Sums far outside of the functions' range give their limits, not overflow."""
    fields = {"stack": uniform_stack(cell, 1, 21)}
    native, plain = make_model(kernel, **fields), make_model(Reference(), **fields)
    x, state = inputs(native, 8)
    for scale in (1e2, 1e4, 1e30):
        got, want = native.step(x * scale, state), plain.step(x * scale, state)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_small_numbers_keep_their_digits(kernel: Kernel) -> None:
    """Tanh near zero is its argument: a state that fades does so by digits, not in steps of 2⁻²⁴."""
    model = make_model(kernel, stack=(LayerSpec(cell="rnn_tanh", hidden=16, bias=False),))
    x, state = inputs(model, 8)
    x, state = x * 1e-12, tuple(s * 1e-12 for s in state)
    weights = model.stack.layers[0].weights[0]  # type: ignore[attr-defined]
    exact = x.double() @ weights.ih.double().T + state[0].double() @ weights.hh.double().T
    raw, _ = model.step(x, state)
    torch.testing.assert_close(raw.double(), exact, rtol=1e-4, atol=1e-18)


def test_only_what_was_measured_is_called_invariant(kernel: Kernel) -> None:
    """Torch's σ rounds otherwise where a tensor ends in less than a vector; so do silu and gelu."""
    stack = uniform_stack("gru", 1, 8)
    assert make_model(kernel, stack=stack).batch_invariant
    both_ways = uniform_stack("gru", 1, 8, bidirectional=True)
    assert not make_model(kernel, stack=both_ways).batch_invariant  # torch runs its layers
    assert not make_model(kernel, stack=stack, output=Output(transform="sigmoid")).batch_invariant
    for activation in ("sigmoid", "silu", "gelu"):
        head = MlpHead(hidden=(5,), width=3, activation=activation)
        assert not make_model(kernel, stack=stack, head=head).batch_invariant


def test_steps_leave_their_operands_alone(kernel: Kernel) -> None:
    model = make_model(kernel, stack=uniform_stack("lstm", 2, 21))
    x, state = inputs(model, 5)
    before = [tensor.clone() for tensor in (x, *state)]
    everything_of(model, x, state)
    assert all(torch.equal(a, b) for a, b in zip(before, (x, *state), strict=True))


def test_views_are_read_as_what_they_are(kernel: Kernel) -> None:
    model = make_model(kernel, stack=uniform_stack("gru", 1, 21))
    x, (h,) = inputs(model, 10)
    expected = everything_of(model, x[::2].clone(), (h[::2].clone(),))
    found = everything_of(model, x[::2], (h.t().contiguous().t()[::2],))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_shapes_and_types_are_checked_before_addresses_are_taken(kernel: Kernel) -> None:
    model = make_model(kernel, stack=uniform_stack("lstm", 1, 21))
    x, (h, c) = inputs(model, 4)
    for bad in ((x[:, :3], (h, c)), (x, (h[:2], c)), (x, (h, c[:, :5])), (x.double(), (h, c))):
        with pytest.raises((TypeError, ValueError)):
            model.step(*bad)


def test_no_rows_are_no_work(kernel: Kernel) -> None:
    model = make_model(kernel, stack=uniform_stack("lstm", 1, 21), head=LinearHead(width=3))
    raw, state = model.step(torch.empty(0, WIDTH), model.initial_state(0))
    assert raw.shape == (0, 3)
    assert [tuple(s.shape) for s in state] == [(0, 21)] * 2


def test_what_cannot_stream_is_not_packed(kernel: Kernel) -> None:
    model = make_model(kernel, stack=uniform_stack("gru", 1, 12, bidirectional=True))
    raw, _ = model.sequence(torch.randn(2, 5, WIDTH), torch.tensor([5, 3]))
    assert torch.isfinite(raw).all()
    assert model.kernel is kernel


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_states_are_read_where_they_stand(kernel: Kernel, cell: Any, dtype: str) -> None:
    for chosen in (kernel, Reference()):
        model = make_model(chosen, **everything(cell, dtype))
        _, slab = inputs(model, 600)
        slots = torch.randperm(600)[:280]
        x, _ = inputs(model, 280)
        before = [tensor.clone() for tensor in slab]
        raw, after = model.step(x, slab, slots)
        wanted, wanted_after = model.step(x, tuple(tensor[slots] for tensor in slab))
        for found, right in zip((raw, *after), (wanted, *wanted_after), strict=True):
            assert torch.equal(found, right)
        assert all(torch.equal(a, b) for a, b in zip(before, slab, strict=True))


def test_slots_outside_of_the_tensors_are_refused(kernel: Kernel) -> None:
    model = make_model(kernel, stack=uniform_stack("lstm", 1, 21))
    x, state = inputs(model, 4)
    for bad in ([0, 1, 2, 4], [0, -1, 2, 3]):
        with pytest.raises(IndexError, match="outside"):
            model.step(x, state, torch.tensor(bad))
        with pytest.raises(IndexError, match="outside"):
            kernel.scatter_into(state[:1])(torch.tensor(bad), (torch.zeros(4, 21),))
    with pytest.raises((TypeError, ValueError)):
        model.step(x, state, torch.tensor([0, 1]))
    with pytest.raises((TypeError, ValueError)):
        model.step(x, state, torch.arange(4, dtype=torch.int32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5)], ids=str)
def test_rows_are_scattered(kernel: Kernel, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    for chosen in (kernel, Reference()):
        target = torch.arange(50).reshape(50, *[1] * len(shape)).expand(50, *shape).to(dtype)
        target = target.contiguous()
        slots, wanted = torch.randperm(50)[:20], target.clone()
        source = torch.randint(100, (20, *shape)).to(dtype)
        wanted[slots] = source
        chosen.scatter_into([target])(slots, (source,))
        assert torch.equal(target, wanted)


@pytest.mark.parametrize(
    ("cell", "options"), [*((cell, {}) for cell in OTHERS), ("lstm", {"peepholes": True})]
)
def test_layers_without_native_code_run_between_native_ones(
    kernel: Kernel, cell: Any, options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    multiplied: list[list[int]] = []
    linear = type(kernel).linear

    def counted(self: Kernel, weight: Tensor, bias: Tensor | None) -> Any:
        multiplied.append(list(weight.shape))
        return linear(self, weight, bias)

    monkeypatch.setattr(type(kernel), "linear", counted)
    stack = (
        LayerSpec(cell="gru", hidden=19),
        LayerSpec(cell=cell, hidden=24, options=options),
        LayerSpec(cell="gru", hidden=11),
    )
    fields = {"stack": stack, "head": LinearHead(width=5)}
    mixed, plain = make_model(kernel, **fields), make_model(Reference(), **fields)
    assert [5, 11] in multiplied  # the head is the kernel's
    assert [layer.batch_invariant for layer in mixed.stack.layers] == [True, False, True]  # type: ignore[attr-defined]
    assert not mixed.batch_invariant
    x, state = inputs(mixed, 9)
    torch.testing.assert_close(mixed.step(x, state), plain.step(x, state), rtol=1e-5, atol=1e-5)
    rows, lengths = torch.randn(3, 6, WIDTH), torch.tensor([6, 2, 4])
    found, wanted = mixed.sequence(rows, lengths), plain.sequence(rows, lengths)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
