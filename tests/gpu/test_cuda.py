"""The same promises on a CUDA device, by each kernel there: parity, bits in strict mode, generation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import carousel_models
from carousel_models import devices
from carousel_server.core.ports import Export, Generate, Import, Infer, StepBlock
from carousel_server.core.types import GenerateSpec, OpenSpec, SamplingSpec
from tests.parity import reference
from tests.parity.test_batches import CELLS, STEPS, TOLERANCE, WIDTH, sequences, serve
from tests.unit.engine.fakes import RecordingSink, RecordingTokens, Rig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
]


@pytest.fixture
def package(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    options = {"layers": 2, "hidden": 64, "input": f"features:{WIDTH}", "output": 3}
    carousel_models.create("m", dir=tmp_path, **(options | request.param))
    return tmp_path / "m"


KERNELS = ("reference", "cuda")

every_kernel = pytest.mark.parametrize("kernel", KERNELS)
every_cell = pytest.mark.parametrize(
    "package",
    [{"cell": cell, "dtype": dtype} for cell in CELLS for dtype in TOLERANCE],
    ids=lambda options: f"{options['cell']}-{options['dtype']}",
    indirect=True,
)
lstm = pytest.mark.parametrize("package", [{"cell": "lstm"}], indirect=True)
language = pytest.mark.parametrize(
    "package", [{"cell": "gru", "input": "tokens:256", "output": 256}], indirect=True
)


@every_kernel
@every_cell
def test_served_steps_follow_the_equations(package: Path, kernel: str) -> None:
    x = sequences(10)
    dtype = carousel_models.read_manifest(package).dtype
    expected = np.stack([reference.run(package, row)["y"] for row in x])
    served = serve(package, x, busy=True, strict=False, device="cuda", kernel=kernel)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(served, expected, atol=tolerance, rtol=tolerance)


@every_kernel
@every_cell
def test_strict_bits_do_not_depend_on_the_batch(package: Path, kernel: str) -> None:
    x = sequences(10)
    busy = serve(package, x, busy=True, strict=True, device="cuda", kernel=kernel)
    alone = serve(package, x[7:8], busy=False, strict=True, device="cuda", kernel=kernel)
    assert alone[0].tobytes() == busy[7].tobytes()


@every_kernel
@lstm
def test_state_stays_on_the_device(package: Path, kernel: str) -> None:
    rig = Rig(carousel_models.load(package, device="cuda", kernel=kernel))
    assert all(tensor.is_cuda for tensor in rig.engine._rows.slab.tensors)


@every_kernel
@lstm
def test_one_gpu_of_several_has_all_of_a_model(package: Path, kernel: str) -> None:
    """The last one, which is the first on a machine with one GPU."""
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    before = torch.cuda.current_device()
    try:
        devices.use(device)
        rig = Rig(carousel_models.load(package, device=device, kernel=kernel))
        x = sequences(3)
        served = serve(package, x, busy=True, strict=False, device=str(device), kernel=kernel)
    finally:
        torch.cuda.set_device(before)
    assert {tensor.device for tensor in rig.engine._rows.slab.tensors} == {device}
    expected = np.stack([reference.run(package, row)["y"] for row in x])
    np.testing.assert_allclose(
        served, expected, atol=TOLERANCE["float32"], rtol=TOLERANCE["float32"]
    )


@every_kernel
@lstm
def test_a_snapshot_moves_between_devices(package: Path, kernel: str) -> None:
    x, sink = sequences(1)[0], RecordingSink()
    gpu = Rig(carousel_models.load(package, device="cuda", kernel=kernel), window_steps=32)
    cpu = Rig(carousel_models.load(package), window_steps=32)
    ref = gpu.session(sink)
    half = STEPS // 2
    gpu.run(StepBlock(sink, [1], [ref], [1], half, x[:half].tobytes()))
    gpu.settle()
    data, _ = gpu.run(Export(ref))
    moved = cpu.run(Import(data, OpenSpec("t", "")))[0]
    cpu.bind(moved, sink, 2)
    cpu.run(StepBlock(sink, [2], [moved], [half + 1], STEPS - half, x[half:].tobytes()))
    cpu.settle()
    got = np.stack([step.row for step in sink.steps])
    np.testing.assert_allclose(got, reference.run(package, x)["y"], atol=1e-4, rtol=1e-4)


@lstm
def test_whole_sequences_of_any_length_share_a_batch(package: Path) -> None:
    rig = Rig(carousel_models.load(package, device="cuda"))
    x = sequences(3)
    calls = [Infer(row[:n].tobytes()) for row, n in zip(x, (1, 7, STEPS), strict=True)]
    for call in calls:
        rig.engine.submit(call)
    rig.settle()
    for call, row, n in zip(calls, x, (1, 7, STEPS), strict=True):
        expected = reference.run(package, row[:n])["y"]
        got = call.reply.result(0).view("<f4")
        np.testing.assert_allclose(got, expected, atol=1e-4, rtol=1e-4)


@every_kernel
@language
def test_a_seed_repeats_a_text_in_any_batch(package: Path, kernel: str) -> None:
    def text(neighbours: int) -> list[int]:
        model = carousel_models.load(package, device="cuda", kernel=kernel)
        rig = Rig(model, strict=True, slots=16)
        sinks = [RecordingTokens() for _ in range(neighbours + 1)]
        for number, sink in enumerate(sinks):
            sampling = SamplingSpec(top_k=40, top_p=0.95, repetition_penalty=1.1, seed=number)
            prompt = np.arange(1, 9 + number, dtype=np.int32)
            rig.engine.submit(
                Generate(rig.open(), GenerateSpec(prompt, 40, sampling, logprobs=1), sink)
            )
        rig.settle()
        return sinks[0].ids

    alone = text(0)
    assert len(set(alone)) > 5
    assert text(7) == alone
