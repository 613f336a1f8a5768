"""Graphs: what is recorded and when, what is copied, and what happens where nothing can be recorded."""

from __future__ import annotations

import inspect
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.engine.fakes import RecordingSink, Rig
from torch import Tensor

from carousel_models import RecurrentModel, create, load
from carousel_models.kernels import Kernel, Reference
from carousel_models.kernels.graphs import CudaRecorder, Graphs, Outputs, Replay, Run
from carousel_models.kernels.interface import Function
from carousel_server.core.ports import StepBlock


class FakeRecorder:
    """Replays by running again into the same tensors; then all other records' results are garbage."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.results: list[Outputs] = []
        self.error: Exception | None = None

    def rehearse(self, run: Run) -> None:
        self.told.append("rehearse")
        run()

    def record(self, run: Run) -> tuple[Replay, Outputs]:
        self.told.append("record")
        if self.error is not None:
            raise self.error
        results = tuple(map(torch.empty_like, run()))
        self.results.append(results)

        def replay() -> None:
            self.told.append("replay")
            new = tuple(tensor.clone() for tensor in run())
            for other in self.results:
                for tensor in other:
                    tensor.fill_(-1 if tensor.dtype == torch.int64 else float("nan"))
            for tensor, value in zip(results, new, strict=True):
                tensor.copy_(value)

        return replay, results


def doubled(x: Tensor, slots: Tensor) -> Outputs:
    return x * 2, slots + 1


def test_each_shape_is_recorded_once_and_replayed_from_then_on() -> None:
    recorder = FakeRecorder()
    graphs = Graphs(doubled, recorder)
    results = []
    for size in (4, 4, 8, 4):
        x, slots = torch.randn(size, 3), torch.arange(size)
        y, after = graphs(x, slots)
        assert torch.equal(y, x * 2)
        assert torch.equal(after, slots + 1)
        results.append(y)
    assert recorder.told == [
        *("rehearse", "record", "replay", "replay"),
        *("rehearse", "record", "replay", "replay"),
    ]
    # One bucket's results stand in the same memory every time.
    assert results[0] is results[1] is results[3]


def test_arguments_are_copied_in_and_left_alone() -> None:
    graphs = Graphs(lambda x: (x.add_(1),), FakeRecorder())
    x = torch.zeros(2, 3)
    for _ in range(3):
        assert (graphs(x)[0] == 1).all()
    assert not x.any()


def test_results_may_be_the_next_arguments() -> None:
    graphs = Graphs(lambda x: (x + 1,), FakeRecorder())
    (x,) = graphs(torch.zeros(2, 3))
    for _ in range(4):
        (x,) = graphs(x)
    assert (x == 5).all()


def test_what_cannot_be_recorded_runs_as_it_is_and_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = FakeRecorder()
    recorder.error = RuntimeError("operation not permitted when stream is capturing")
    graphs = Graphs(doubled, recorder)
    for _ in range(3):
        x = torch.randn(4, 3)
        assert torch.equal(graphs(x, torch.arange(4))[0], x * 2)
    assert recorder.told == ["rehearse", "record"]
    (line,) = caplog.messages
    assert "[4, 3] are launched one by one" in line
    assert "not permitted" in line
    recorder.error = None
    graphs(torch.randn(8, 3), torch.arange(8))
    assert recorder.told[2:] == ["rehearse", "record", "replay"]


def test_a_function_that_fails_is_its_callers_to_know_and_is_tried_again() -> None:
    failing = [True]

    def function(x: Tensor) -> Outputs:
        if failing:
            failing.pop()
            raise RuntimeError("out of memory")
        return (x + 1,)

    recorder = FakeRecorder()
    graphs = Graphs(function, recorder)
    with pytest.raises(RuntimeError, match="out of memory"):
        graphs(torch.zeros(2))
    assert (graphs(torch.zeros(2))[0] == 1).all()
    assert recorder.told == ["rehearse", "rehearse", "record", "replay"]


class FakeCuda:
    """`torch.cuda` as far as a recorder uses it: keeps which stream is current, and what was asked for."""

    def __init__(self) -> None:
        self.current = ["default"]
        self.told: list[Any] = []
        self.fails = False

    def Stream(self) -> Any:  # noqa: N802
        def wait_stream(other: str) -> None:
            self.told.append(("wait", other))

        return Namespace(
            wait_stream=wait_stream, synchronize=lambda: self.told.append("synchronize")
        )

    def CUDAGraph(self) -> Any:  # noqa: N802
        return Namespace(replay=lambda: self.told.append("replay"))

    def graph_pool_handle(self) -> str:
        return "pool"

    def current_stream(self) -> Any:
        return self.current[-1]

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before = list(self.current)
        self.current.append(stream)
        try:
            yield
        finally:
            self.current[:] = before

    @contextmanager
    def graph(self, *arguments: Any, **named: Any) -> Iterator[None]:
        inspect.signature(torch.cuda.graph).bind(*arguments, **named)
        self.told.append(named)
        self.current.append(named["stream"])
        yield
        if self.fails:  # as torch does: the stream stays
            raise RuntimeError("capture was invalidated")
        self.current.pop()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr("carousel_models.kernels.graphs.torch", Namespace(cuda=fake))
    return fake


def test_a_record_is_made_on_a_stream_of_its_own(cuda: FakeCuda) -> None:
    recorder, streams = CudaRecorder(), []

    def run() -> Outputs:
        streams.append(cuda.current_stream())
        return ()

    recorder.rehearse(run)
    replay, outputs = recorder.record(run)
    replay()
    mine = recorder._stream
    assert (streams, outputs) == ([mine, mine], ())
    named = {"pool": "pool", "stream": mine, "capture_error_mode": "thread_local"}
    assert cuda.told == [("wait", "default"), "synchronize", named, "replay"]
    assert cuda.current == ["default"]


def test_a_record_that_fails_leaves_the_thread_on_its_stream(cuda: FakeCuda) -> None:
    recorder = CudaRecorder()
    cuda.fails = True
    for _ in range(2):  # and the next one is not kept waiting
        with pytest.raises(RuntimeError, match="invalidated"):
            recorder.record(tuple)
        assert cuda.current == ["default"]


class Recording(Reference):
    """The reference kernel as if it were recorded on a device."""

    def __init__(self) -> None:
        self.recorder = FakeRecorder()

    def recorded(self, function: Function) -> Function:
        return Graphs(function, self.recorder)


Models = Callable[[], RecurrentModel]


@pytest.fixture
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    create("m", cell="lstm", layers=2, hidden=12, input="features:3", output=2, dir=folder)
    return lambda: load(folder / "m", kernel="reference")


def rig(model: RecurrentModel, kernel: Kernel) -> Rig:
    """Its outputs come to the host as a device's do: as copies."""
    model.kernel = kernel
    model.finish = lambda raw: (raw.clone(),)  # type: ignore[method-assign]
    return Rig(model, slots=16, max_batch=16, window_steps=16, chunk_steps=4)


def outputs(engine: Rig, x: np.ndarray, counts: list[int]) -> dict[tuple[int, int], bytes]:
    """Chunks of unlike lengths in one batch, twice, then all states' bits."""
    sink = RecordingSink()
    refs = [engine.session(sink, tag) for tag in range(len(counts))]
    done = [0] * len(counts)
    for _ in range(2):
        for tag, count in enumerate(counts):
            rows = x[tag, done[tag] : done[tag] + count].tobytes()
            first = done[tag] + 1
            engine.engine.submit(StepBlock(sink, [tag], [refs[tag]], [first], count, rows))
            done[tag] += count
        engine.settle()
    assert not sink.refusals
    found = {(step.tag, step.seq): step.row.tobytes() for step in sink.steps}
    assert len(found) == 2 * sum(counts)
    slab = engine.engine._rows.slab
    found |= {(-1, n): t[: slab.scratch_row].numpy().tobytes() for n, t in enumerate(slab.tensors)}
    return found


def test_recorded_ticks_are_to_the_bit_what_the_others_are(models: Models) -> None:
    """Rows that end early have their states put aside before a replay writes over them."""
    counts = [4, 1, 3, 3, 2, 4, 1, 4, 2]
    x = np.random.default_rng(0).normal(size=(len(counts), 8, 3)).astype("<f4")
    kernel = Recording()
    recorded = outputs(rig(models(), kernel), x, counts)
    assert recorded == outputs(rig(models(), Reference()), x, counts)
    told = kernel.recorder.told
    assert told.count("replay") == 8 > told.count("record") >= 2


def test_a_recorded_tick_that_fails_leaves_every_state_as_it_was(models: Models) -> None:
    kernel = Recording()
    engine = rig(models(), kernel)
    sink = RecordingSink()
    ref = engine.session(sink)
    engine.run(StepBlock(sink, [1], [ref], [1], 1, np.ones(3, "<f4").tobytes()))
    before = [tensor.clone() for tensor in engine.engine._rows.slab.tensors]
    (results,) = kernel.recorder.results

    def lost(_raw: Tensor) -> tuple[Tensor, ...]:
        """The step has been computed, its outputs do not reach the host."""
        assert not torch.equal(results[1][:1], before[0][ref.row][None])
        raise RuntimeError("out of memory")

    engine.model.finish = lost
    engine.run(StepBlock(sink, [1], [ref], [2], 1, np.ones(3, "<f4").tobytes()))
    engine.settle()
    assert sink.reasons == ["STEP_FAILED"]
    slab = engine.engine._rows.slab
    n = slab.scratch_row
    assert all(torch.equal(a[:n], b[:n]) for a, b in zip(before, slab.tensors, strict=True))
