"""`--kernel` reaches the engine beside the server and the server itself, and the name of the result."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from bench import __main__ as program
from bench import blocks, bounds, generation, models, processes, served
from bench.figures import Workload
from bench.report import foundation_ratios


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What servers were asked for; none is started."""
    asked: list[dict[str, Any]] = []

    @contextmanager
    def server(_models: Path, device: str, **settings: Any) -> Iterator[str]:
        asked.append({"device": device, **settings})
        yield "nowhere:1"

    @contextmanager
    def echo() -> Iterator[str]:
        yield "nowhere:2"

    monkeypatch.setattr(processes, "carousel_server", server)
    monkeypatch.setattr(processes, "echo_server", echo)
    return asked


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that models are loaded with."""
    kernels: list[str] = []
    for module in (bounds, generation):
        load = module.load

        def loading(path: Path, *, kernel: str, load: Any = load, **more: Any) -> Any:
            kernels.append(kernel)
            return load(path, kernel=kernel, **more)

        monkeypatch.setattr(module, "load", loading)
    return kernels


@pytest.mark.parametrize("figure", [blocks, generation])
def test_it_reaches_server_and_engine(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    servers: list[dict[str, Any]],
    loaded: list[str],
    figure: Any,
) -> None:
    monkeypatch.setattr(blocks, "SHAPES", ((2, 3),))
    monkeypatch.setattr(generation, "STREAMS", (2,))
    options = Namespace(dtype="float32", seconds=0.001, kernel="reference")
    with ExitStack() as stack:
        work = figure.workloads(options, "cpu", tmp_path, stack, Namespace(run=None))
        (engine,) = (w for w in work if w.name.startswith("engine"))
        assert all(value > 0 for value in engine.measure().values())
    assert servers
    assert {(asked["device"], asked["kernel"]) for asked in servers} == {("cpu", "reference")}
    assert loaded == ["reference"]


def test_the_models_step_is_measured_as_the_kernel_records_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "BATCHES", (2,))
    step, tick = bounds.workloads(models.make(tmp_path), "cpu", 0.001, "reference")
    assert step.measure()["run_us"] > 0
    assert tick.measure()["steps_per_s"] > 0
    model = bounds.load(tmp_path / models.STEPPED)
    assert "device_us" not in bounds.ModelStep(model, 2, 0.001)()


def test_the_hosts_part_of_a_tick_is_what_the_device_does_not_need() -> None:
    figures: dict[str, Any] = {
        f"model step, {n} rows": {"run_us": {"median": 30.0}, "device_us": {"median": 20.0}}
        for n in bounds.BATCHES
    } | {f"engine tick, {n} sessions": {"run_us": {"median": 25.0}} for n in bounds.BATCHES}
    for n in served.SESSIONS:
        for name in ("echo", "carousel"):
            figures[f"{name}: {n} sessions, a message a step"] = {"steps_per_s": {"median": 1.0}}
    told = dict(foundation_ratios(figures))
    assert told["engine tick, 64 sessions: the host's time over the device's"] == 0.25


def test_it_is_in_the_name_of_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "RESULTS", tmp_path)
    monkeypatch.setitem(
        program.FIGURES,
        "blocks",
        (lambda *_: [[Workload("w", lambda: {"us": 1.0})]], lambda _: iter(())),
    )
    arguments = ["--rounds", "1", "--device", "cpu", "--dtype", "bfloat16"]
    for more, name in (
        ([], "blocks-cpu-bfloat16"),
        (["--kernel", "cpu"], "blocks-cpu-bfloat16-kernel-cpu"),
    ):
        monkeypatch.setattr(sys, "argv", ["bench", "blocks", *arguments, *more])
        assert program.main() == 0
        assert json.loads((tmp_path / f"{name}.json").read_text())["figures"]["w"]
        assert (tmp_path / f"{name}.md").exists()
