"""A step in any batch equals the same step alone and the equations; in strict mode to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import carousel_models
from carousel_server.core.ports import Generate, Infer, StepBlock
from carousel_server.core.types import GenerateSpec, SamplingSpec
from carousel_server.engine import sequences as whole
from carousel_server.engine.runner import Buckets, Runner
from carousel_server.engine.scheduler import Batch
from carousel_server.rows.slab import Slab
from tests.parity import reference
from tests.parity.conftest import CELLS, KERNELS
from tests.unit.engine.fakes import RecordingSink, RecordingTokens, Rig

WIDTH, OUTPUT, STEPS = 5, 3, 12
TOLERANCE = {"float32": 2e-5, "bfloat16": 4e-2}

Packages = Callable[..., Path]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """Makes a random-weight package once per set of options."""
    made: dict[tuple[Any, ...], Path] = {}

    def make(**options: Any) -> Path:
        key = tuple(sorted(options.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("packages")
            settings = {"layers": 2, "hidden": 24, "input": f"features:{WIDTH}", "output": OUTPUT}
            carousel_models.create("m", dir=folder, **(settings | options))
            made[key] = folder / "m"
        return made[key]

    return make


def serve(
    path: Path,
    inputs: np.ndarray,
    *,
    busy: bool,
    strict: bool,
    device: str = "cpu",
    kernel: str = "auto",
) -> np.ndarray:
    """Outputs of sequences float32[n, steps, width]; `busy` mixes chunk sizes, joins and leaves."""
    model = carousel_models.load(path, device=device, kernel=kernel)
    rig = Rig(model, strict=strict, slots=32, max_batch=16, window_steps=32)
    sink = RecordingSink()
    rng = np.random.default_rng(1)
    refs = {tag: rig.session(sink, tag) for tag in range(len(inputs))}
    sent = dict.fromkeys(refs, 0)
    while sent:
        ready = [t for t in sent if not busy or rng.random() < 0.6]
        for tag in ready:
            first = sent[tag]
            count = min(int(rng.integers(1, 5)) if busy else 1, inputs.shape[1] - first)
            rows = inputs[tag, first : first + count].tobytes()
            rig.engine.submit(StepBlock(sink, [tag], [refs[tag]], [first + 1], count, rows))
            sent[tag] += count
            if not busy:
                rig.settle()
        rig.settle()
        sent = {tag: n for tag, n in sent.items() if n < inputs.shape[1]}
    out = np.empty((len(inputs), inputs.shape[1], OUTPUT), np.float32)
    for step in sink.steps:
        out[step.tag, step.seq - 1] = step.row
    return out


def sequences(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, STEPS, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cell", CELLS)
def test_served_steps_follow_the_equations(
    package: Packages, cell: str, dtype: str, kernel: str
) -> None:
    path, x = package(cell=cell, dtype=dtype), sequences(10)
    expected = np.stack([reference.run(path, row)["y"] for row in x])
    served = serve(path, x, busy=True, strict=False, kernel=kernel)
    np.testing.assert_allclose(served, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cell", CELLS)
def test_strict_bits_do_not_depend_on_the_batch(
    package: Packages, cell: str, dtype: str, kernel: str
) -> None:
    path, x = package(cell=cell, dtype=dtype), sequences(10)
    busy = serve(path, x, busy=True, strict=True, kernel=kernel)
    for tag in (0, 7):
        alone = serve(path, x[tag : tag + 1], busy=False, strict=True, kernel=kernel)
        assert alone[0].tobytes() == busy[tag].tobytes()


def test_a_seeded_text_does_not_depend_on_the_batch(package: Packages) -> None:
    path = package(cell="gru", input="tokens:256", output=256)

    def text(neighbours: int) -> list[int]:
        rig = Rig(carousel_models.load(path), strict=True, slots=32, max_batch=16)
        sinks = [RecordingTokens() for _ in range(neighbours + 1)]
        for number, sink in enumerate(sinks):
            prompt = np.arange(1 + number, 9 + 2 * number, dtype=np.int32)
            spec = GenerateSpec(prompt, 60, SamplingSpec(top_k=40, top_p=0.95, seed=number))
            rig.engine.submit(Generate(rig.open(), spec, sink))
        rig.settle()
        return sinks[0].ids

    alone = text(0)
    assert len(set(alone)) > 10
    assert text(1) == alone
    assert text(14) == alone


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_chunk_that_fails_leaves_the_states_as_they_were(
    package: Packages, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = carousel_models.load(package(cell="lstm"), device="cpu", kernel=kernel)
    slab = Slab(model.state_specs, 4, model.device, model.kernel)
    runner = Runner(model, slab, Buckets(4, strict=False, invariant=model.batch_invariant))
    batch, fed = Batch(np.asarray([2, 0]), np.asarray([3, 1])), np.ones(2, bool)
    inputs = np.ones((2, 3, WIDTH), "<f4").view(np.uint8)
    runner.run(batch, inputs, fed, lambda: ~fed)
    before = [tensor[:4].clone() for tensor in slab.tensors]

    def fail(_raw: Any) -> Any:
        raise MemoryError("no room for the outputs")

    monkeypatch.setattr(model, "finish", fail)
    with pytest.raises(MemoryError):
        runner.run(batch, inputs, fed, lambda: ~fed)
    assert all(torch.equal(t[:4], b) for t, b in zip(slab.tensors, before, strict=True))


@pytest.mark.parametrize("kernel", KERNELS)
def test_whole_sequences_beside_others_are_as_alone(
    package: Packages, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Infer: whoever joins and leaves; to the bit where the kernel says so, and as steps of a session."""
    path, rng = package(cell="gru"), np.random.default_rng(3)
    model = carousel_models.load(path, device="cpu", kernel=kernel)
    inputs = [rng.standard_normal((n, WIDTH)).astype("<f4") for n in (30, 1, 25, 5, 16, 32)]
    streamed = [serve(path, x[None], busy=False, strict=False, kernel=kernel)[0] for x in inputs]
    monkeypatch.setattr(whole, "_IDLE_CHUNK_STEPS", 8)
    rig, calls = Rig(model, slots=4), []
    for x in inputs:
        calls.append(Infer(x.tobytes()))
        rig.engine.submit(calls[-1])
        rig.tick()
    rig.settle()
    for call, wanted in zip(calls, streamed, strict=True):
        found = call.reply.result(0).view("<f4").reshape(wanted.shape)
        if model.batch_invariant:
            assert np.array_equal(found, wanted)
        else:
            np.testing.assert_allclose(found, wanted, rtol=TOLERANCE["float32"], atol=2e-5)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("cell", CELLS)
def test_a_row_that_reads_the_initial_row_is_as_a_fresh_one(
    package: Packages, cell: str, kernel: str, steps: int
) -> None:
    """Steps from the initial row, several at once and beside others, and nothing is written there."""
    model = carousel_models.load(package(cell=cell), device="cpu", kernel=kernel)
    slab = Slab(model.state_specs, 8, model.device, model.kernel)
    runner = Runner(model, slab, Buckets(8, strict=True))
    rows, fed = np.asarray([5, 0, 3, 1]), np.ones(4, bool)
    rng, counts = np.random.default_rng(2), np.asarray([steps, steps, steps, 1])

    def run(reads: np.ndarray[Any, Any] | None) -> tuple[list[bytes], list[list[bytes]]]:
        found = runner.run(Batch(rows, counts), inputs, fed, lambda: ~fed, reads)
        states = [[t[row].numpy().tobytes() for t in slab.tensors] for row in rows.tolist()]
        return [r[:n].tobytes() for r, n in zip(found.rows, counts.tolist(), strict=True)], states

    inputs = rng.standard_normal((4, steps, WIDTH)).astype("<f4").view(np.uint8)
    fresh, fresh_states = run(None)
    went_on, went_on_states = run(None)
    for tensor in slab.tensors:
        tensor[rows] = 0
    assert run(None) == (fresh, fresh_states)
    again, states = run(np.where([True, False, True, False], slab.initial_row(0), rows))
    for place, wanted, wanted_state in (
        (0, fresh, fresh_states),
        (1, went_on, went_on_states),
        (2, fresh, fresh_states),
        (3, went_on, went_on_states),
    ):
        assert again[place] == wanted[place]
        assert states[place] == wanted_state[place]
    assert fresh != went_on
    assert not any(tensor[slab.initial_row(0)].any() for tensor in slab.tensors)
