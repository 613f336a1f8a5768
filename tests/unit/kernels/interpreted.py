"""The `cuda` kernel where there is no GPU: Triton's interpreter runs its programs on tensors of the CPU.

Run by test_cuda.py in a process of its own, since Triton reads TRITON_INTERPRET when it is imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.parity import reference
from tests.parity.conftest import TOLERANCE as OF_EQUATIONS
from tests.parity.conftest import difference
from tests.unit.kernels.test_graphs import FakeRecorder, outputs, rig
from torch import Tensor

from carousel_models import Manifest, RecurrentModel
from carousel_models.creating import random_tensors
from carousel_models.kernels import Kernel, Reference, packed
from carousel_models.kernels.chain import Chain
from carousel_models.kernels.cuda import Cuda, open_cuda
from carousel_models.loading import build
from carousel_models.spec import FeaturesInput, LayerSpec, LinearHead, MlpHead, Projection
from carousel_models.writing import write
from carousel_server.rows.slab import Slab

CELLS: list[Any] = ["rnn_tanh", "rnn_relu", "lstm", "gru", "gru_reset_before"]
DTYPES = ["float32", "bfloat16"]
WIDTH = 7
# What a GPU computes without a word, NumPy warns of.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")

# bfloat16: the reference rounds its products to 8 bits, the kernel does not.
TOLERANCE = {"float32": 1e-5, "bfloat16": 4e-2}


def parts(cell: Any, dtype: str = "float32", **fields: Any) -> tuple[Manifest, dict[str, Tensor]]:
    """Layers of unlike widths, with and without bias and residual; or those in `fields`."""
    fields.setdefault("input", FeaturesInput(width=WIDTH, projection=Projection(width=19)))
    fields.setdefault("head", LinearHead(width=5))
    if "stack" not in fields:
        fields["stack"] = (
            LayerSpec(cell=cell, hidden=19, residual=True),
            LayerSpec(cell=cell, hidden=37, bias=False),
        )
    manifest = Manifest(name="m", fingerprint="0" * 64, dtype=dtype, **fields)
    typed = getattr(torch, dtype)
    tensors = random_tensors(manifest, 0)
    return manifest, {n: t.to(typed) if t.dim() == 2 else t for n, t in tensors.items()}


def make_model(kernel: Kernel, cell: Any, dtype: str = "float32", **fields: Any) -> RecurrentModel:
    return build(*parts(cell, dtype, **fields), kernel=kernel)


def randoms(model: RecurrentModel, rows: int) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(rows)
    return tuple(torch.randn(rows, *s.shape, generator=random) for s in model.state_specs)


def assert_close(found: Any, wanted: Any, dtype: str = "float32") -> None:
    torch.testing.assert_close(found, wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_rows_of_the_slab_step_as_by_the_reference(
    monkeypatch: pytest.MonkeyPatch, cell: Any, dtype: str
) -> None:
    """Scattered slots, a batch that is no power of two, two padding rows, rows of nobody in between.

    A layer takes two programs a row, as one of more than 512 units does otherwise.
    """
    monkeypatch.setattr(packed, "_MOST_UNITS", 32)
    ours, plain = make_model(Cuda(), cell, dtype), make_model(Reference(), cell, dtype)
    slab = Slab(ours.state_specs, 12, torch.device("cpu"), ours.kernel)
    before = randoms(ours, 14)
    for tensor, values in zip(slab.tensors, before, strict=True):
        tensor.copy_(values)
    rows = torch.tensor([11, 3, 7, 0, 5, slab.scratch_row, slab.scratch_row])
    x = torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(1))
    raw, after = ours.step(x, slab.tensors, rows)
    wanted, wanted_after = plain.step(x, before, rows)
    assert_close(raw, wanted, dtype)
    assert_close(after, wanted_after, dtype)
    # Whoever fails before this line has changed nothing.
    assert all(torch.equal(a, b) for a, b in zip(slab.tensors, before, strict=True))
    slab.scatter(rows, after)
    others = [row for row in range(12) if row not in rows]
    for tensor, old, new in zip(slab.tensors, before, after, strict=True):
        assert torch.equal(tensor[rows[:5]], new[:5])
        assert torch.equal(tensor[others], old[others])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_steps_follow_the_equations(tmp_path: Path, cell: Any, dtype: str) -> None:
    stack = (LayerSpec(cell=cell, hidden=11), LayerSpec(cell=cell, hidden=6, bias=False))
    manifest, tensors = parts(cell, dtype, stack=stack)
    write(tmp_path / "m", manifest, tensors)
    model, x = build(manifest, tensors, kernel=Cuda()), torch.randn(6, WIDTH)
    expected = reference.run_raw(tmp_path / "m", x.numpy())
    assert np.abs(expected).max() > 1e-3
    state, rows = model.initial_state(1), []
    for row in x:
        raw, state = model.step(row[None], state)
        rows.append(raw)
    assert difference(torch.cat(rows).numpy(), expected) <= OF_EQUATIONS[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_residuals_and_other_cells_in_one_stack(dtype: str) -> None:
    stack = tuple(
        LayerSpec(cell=cell, hidden=19, residual=number % 2 == 0, layer_norm=number in (1, 2, 4))
        for number, cell in enumerate(CELLS)
    )
    fields = {"stack": stack, "head": MlpHead(hidden=(9,), width=3, activation="tanh")}
    ours, plain = (make_model(kernel, "", dtype, **fields) for kernel in (Cuda(), Reference()))
    x, state = torch.randn(5, WIDTH), randoms(ours, 5)
    assert isinstance(ours.stack._chain, Chain)  # type: ignore[attr-defined]
    found, wanted = ours.step(x, state), plain.step(x, state)
    # A norm over few numbers may blow rounding up.
    torch.testing.assert_close(found, wanted, rtol=50 * TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_chain_is_its_layers_to_the_bit(cell: Any, dtype: str) -> None:
    model = make_model(Cuda(), cell, dtype)
    x, state = torch.randn(2, WIDTH), randoms(model, 9)
    slots = torch.tensor([8, 1])
    together = model.step(x, state, slots)
    model.stack._chain = None  # type: ignore[attr-defined]
    raw, after = model.step(x, state, slots)
    for found, wanted in zip((together[0], *together[1]), (raw, *after), strict=True):
        assert torch.equal(found, wanted)


def test_a_projection_is_left_to_the_reference(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    stack = (LayerSpec(cell="gru", hidden=8), LayerSpec(cell="lstm", hidden=8, proj_size=3))
    ours, plain = (make_model(kernel, "", stack=stack) for kernel in (Cuda(), Reference()))
    assert "the reference kernel steps lstm layers with a projection" in caplog.text
    x, state = torch.randn(3, WIDTH), randoms(ours, 3)
    assert_close(ours.step(x, state), plain.step(x, state))


@pytest.mark.parametrize("cell", CELLS)
def test_what_is_not_finite_or_huge_stays_in_its_row(cell: Any) -> None:
    """NaN where the reference has it; sums far outside of the functions' range give their limits."""
    ours, plain = make_model(Cuda(), cell), make_model(Reference(), cell)
    x, state = torch.randn(5, WIDTH), randoms(ours, 5)
    clean = ours.step(x, state)
    x[1, 0], x[2, 0] = float("nan"), float("inf")
    x[3] *= 1e30
    found, wanted = ours.step(x, state), plain.step(x, state)
    for got, right, was in zip((found[0], *found[1]), (wanted[0], *wanted[1]),
                               (clean[0], *clean[1]), strict=True):  # fmt: skip
        torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-5, equal_nan=True)
        assert torch.equal(got[[0, 4]], was[[0, 4]])
        assert got[1].isnan().any()


def test_small_numbers_keep_their_digits() -> None:
    """Tanh near zero is its argument, and follows torch's everywhere."""
    layer = (LayerSpec(cell="rnn_tanh", hidden=WIDTH, bias=False),)
    manifest, tensors = parts("", input=FeaturesInput(width=WIDTH), stack=layer)
    tensors["stack.0.forward.weight_ih"] = torch.eye(WIDTH)
    tensors["stack.0.forward.weight_hh"] = torch.zeros(WIDTH, WIDTH)
    model = build(manifest, tensors, kernel=Cuda())
    sizes = torch.tensor([1e-30, 1e-12, 1e-4, 0.1, 0.624, 0.626, 1.0, 3.0, 9.0])
    x = torch.cat((sizes, -sizes))[:, None].expand(-1, WIDTH)
    h = model.step(x, model.initial_state(len(x)))[1][0]
    torch.testing.assert_close(h.double(), torch.tanh(x.double()), rtol=3e-7, atol=0)


def test_it_is_opened_where_its_programs_run() -> None:
    assert open_cuda(torch.device("cpu"), None).name.startswith("cuda-triton-")


def test_no_rows_are_no_work() -> None:
    model = make_model(Cuda(), "gru")
    raw, state = model.step(torch.empty(0, WIDTH), model.initial_state(0))
    assert raw.shape == (0, 5)
    assert [len(s) for s in state] == [0, 0]


def test_operands_are_left_alone_and_views_are_read_as_what_they_are() -> None:
    model = make_model(Cuda(), "lstm")
    x, state = torch.randn(WIDTH, 3).T, tuple(s.t().contiguous().t() for s in randoms(model, 3))
    before = [tensor.clone() for tensor in (x, *state)]
    found = model.step(x, state)
    assert all(torch.equal(a, b) for a, b in zip(before, (x, *state), strict=True))
    wanted = model.step(before[0].contiguous(), tuple(b.contiguous() for b in before[1:]))
    assert_close(found, wanted)  # torch's own product of a view rounds otherwise


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_engine_ticks_with_it(cell: Any) -> None:
    """Chunks of unlike lengths: as launches and as records the same bits, and the reference's numbers."""
    counts = [2, 1, 3]
    x = np.random.default_rng(0).normal(size=(len(counts), 6, WIDTH)).astype("<f4")
    found = [
        outputs(rig(make_model(kernel, cell), kernel), x, counts)
        for kernel in (Cuda(), Cuda(FakeRecorder()), Reference())
    ]
    assert found[0] == found[1]
    launched, _, wanted = (np.frombuffer(b"".join(f[k] for k in sorted(f)), "<f4") for f in found)
    np.testing.assert_allclose(launched, wanted, rtol=1e-5, atol=1e-5)


def test_many_targets_and_other_types_are_scattered() -> None:
    slots, kernel = torch.tensor([4, 0, 2]), Cuda()
    for shape, dtype, count in (((6,), torch.float32, 35), ((2, 3), torch.int64, 2)):
        targets = [torch.zeros(5, *shape, dtype=dtype) for _ in range(count)]
        rows = tuple(torch.ones(3, *shape, dtype=dtype) * (n + 1) for n in range(count))
        kernel.scatter_into(targets)(slots, rows)
        for number, target in enumerate(targets):
            assert (target[slots] == number + 1).all()
            assert not target[[1, 3]].any()
