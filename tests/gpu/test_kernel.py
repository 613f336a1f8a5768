"""The `cuda` kernel on a CUDA device: bits of graphs, failures that change nothing, bits and batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench.invariance import classes
from torch import Tensor

import carousel_models
from carousel_models.kernels import choose
from carousel_models.kernels.graphs import Graphs
from carousel_models.kernels.interface import Function
from carousel_server.core.ports import StepBlock
from tests.parity.test_batches import CELLS, TOLERANCE, WIDTH, sequences, serve
from tests.unit.engine.fakes import RecordingSink, Rig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
]

every_cell = pytest.mark.parametrize("cell", CELLS)
every_dtype = pytest.mark.parametrize("dtype", list(TOLERANCE))


def package(folder: Path, **options: Any) -> Path:
    settings = {"layers": 2, "hidden": 64, "input": f"features:{WIDTH}", "output": 3}
    carousel_models.create("m", dir=folder, **(settings | options))
    return folder / "m"


@every_dtype
@every_cell
def test_graphs_give_the_bits_of_the_launches_they_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: str, dtype: str
) -> None:
    """Mixed chunks, joins and leaves, once replayed and once launched one by one."""
    path, x = package(tmp_path, cell=cell, dtype=dtype), sequences(10)
    replays = []
    real = Graphs.__call__

    def counted(graphs: Graphs, *arguments: Tensor) -> tuple[Tensor, ...]:
        found = real(graphs, *arguments)
        replays.append(all(record is not None for record in graphs._records.values()))
        return found

    monkeypatch.setattr(Graphs, "__call__", counted)
    recorded = serve(path, x, busy=True, strict=False, device="cuda", kernel="cuda")
    assert replays
    assert all(replays), "something could not be recorded"

    def as_it_is(_kernel: object, function: Function) -> Function:
        return function

    monkeypatch.setattr("carousel_models.kernels.cuda.Cuda.recorded", as_it_is)
    launched = serve(path, x, busy=True, strict=False, device="cuda", kernel="cuda")
    assert recorded.tobytes() == launched.tobytes()


@every_dtype
@every_cell
def test_a_tick_that_fails_leaves_every_state_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: str, dtype: str
) -> None:
    model = carousel_models.load(
        package(tmp_path, cell=cell, dtype=dtype), device="cuda", kernel="cuda"
    )
    rig, sink = Rig(model), RecordingSink()
    refs = [rig.session(sink, tag) for tag in range(3)]
    row = np.ones(WIDTH, "<f4").tobytes()

    def step(seq: int) -> None:
        for tag, ref in enumerate(refs):
            rig.engine.submit(StepBlock(sink, [tag], [ref], [seq], 1, row))
        rig.settle()

    step(1)
    before = [tensor.clone() for tensor in rig.engine._rows.slab.tensors]
    assert any(tensor.any() for tensor in before)

    def lost(_raw: Tensor) -> tuple[Tensor, ...]:
        raise torch.OutOfMemoryError("after the step, before its outputs are on the host")

    with monkeypatch.context() as failing:
        failing.setattr(model, "finish", lost)
        step(2)
    assert sink.reasons == ["STEP_FAILED"] * 3
    after = rig.engine._rows.slab.tensors
    assert all(torch.equal(a[:-1], b[:-1]) for a, b in zip(before, after, strict=True))


@every_dtype
def test_rows_that_nobody_stepped_keep_their_bits(tmp_path: Path, dtype: str) -> None:
    model = carousel_models.load(
        package(tmp_path, cell="lstm", dtype=dtype), device="cuda", kernel="cuda"
    )
    slab = tuple(torch.randn(50, *s.shape, device="cuda") for s in model.state_specs)
    before = [tensor.clone() for tensor in slab]
    slots = torch.tensor([49, 3, 17, 8, 30], device="cuda")
    _, after = model.step(torch.randn(5, WIDTH, device="cuda"), slab, slots)
    assert all(torch.equal(a, b) for a, b in zip(slab, before, strict=True))
    model.kernel.scatter_into(slab)(slots, after)
    others = [row for row in range(50) if row not in slots.tolist()]
    for tensor, old, new in zip(slab, before, after, strict=True):
        assert torch.equal(tensor[others], old[others])
        assert torch.equal(tensor[slots], new)


@pytest.mark.parametrize("kernel", ["reference", "cuda"])
def test_what_a_batch_does_to_a_rows_bits_is_told(
    kernel: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Measured, not promised: whichever sizes share their bits, the kernel must not claim more."""
    found = classes("cuda", kernel)
    with capsys.disabled():
        for name, groups in found.items():
            print(f"\n{kernel}, {name}: batch sizes of equal bits {groups}", end="")
    if choose(kernel, torch.device("cuda")).batch_invariant:
        assert all(len(groups) == 1 for groups in found.values())
