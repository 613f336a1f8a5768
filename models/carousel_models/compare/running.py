"""Runs the whole comparison."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from math import prod
from pathlib import Path

import torch

from carousel_models.cell_facts import facts_of
from carousel_models.errors import PackageError
from carousel_models.loading import load
from carousel_models.model import RecurrentModel
from carousel_models.package import zoo_path
from carousel_models.tensors import expected_tensors

from .corpus import standard_library
from .fitness import fits
from .quality import text_quality
from .recall import RecallTask, recall
from .results import Comparison, Machine, Structure
from .speed import speed

CELLS = ("rnn", "lstm", "gru")
PREFIX = "pychar-"
READING = "reading Python that no model has seen"
TIMING = "timing steps alone and in batches"
TRAINING = "training small networks on a memory task"
SHARES = {READING: 0.37, TIMING: 0.10, TRAINING: 0.53}
"""Share of each part in the whole time, measured on two cores, for an estimate of the remaining time."""

Progress = Callable[[str, float], None]
"""Receives the current part, and the share of the whole that is done, 0 … 1."""


def run(
    zoo_dir: Path | str | None = None,
    *,
    seconds_per_measurement: float = 1.0,
    held_out_bytes: int = 100_000,
    task: RecallTask | None = None,
    progress: Progress = lambda _now, _done: None,
) -> Comparison:
    """Measures RNN, LSTM and GRU on this machine. The models `pychar-*` differ in their cell only.

    Args:
        zoo_dir: folder of the packages; the shipped zoo if None.
        seconds_per_measurement: time for the step latency of one cell at one batch.
        held_out_bytes: at most so much held-out text is read.
        task: the memory task; its standard form if None, which takes about ten seconds.
        progress: called at the start of each part, and often within it.

    Raises:
        PackageError: one of the three packages is missing or damaged.
        CorpusMissingError: this Python carries no library sources to read.
    """
    zoo = zoo_path() if zoo_dir is None else Path(zoo_dir)
    machine = this_machine()
    packages = {cell: zoo / f"{PREFIX}{cell}" for cell in CELLS}
    models = {cell: load(path) for cell, path in packages.items()}
    _alike(models)
    _, held_out = standard_library()
    text = held_out.sample(held_out_bytes)
    shapes = tuple(structure(models[cell], cell, packages[cell]) for cell in CELLS)
    read = _part(progress, READING)
    qualities = tuple(
        text_quality(models[cell], cell, text, _slice(read, number, len(CELLS)))
        for number, cell in enumerate(CELLS)
    )
    speeds = speed(models, seconds_per_measurement, on_part=_part(progress, TIMING))
    recalled = recall(CELLS, task, _part(progress, TRAINING))
    return Comparison(
        machine=machine,
        structure=shapes,
        quality=qualities,
        speed=speeds,
        recall=recalled,
        fits=fits(shapes, qualities, speeds, recalled),
    )


def _alike(models: dict[str, RecurrentModel]) -> None:
    """Checks that the models differ in their cell only. Raises PackageError."""
    sizes = {
        (model.manifest.hidden, len(model.manifest.stack), model.manifest.stack_input_width)
        for model in models.values()
    }
    if len(sizes) != 1:
        raise PackageError(
            f"the {PREFIX}* models differ in (hidden, layers, input width): {sorted(sizes)}; train them "
            "again with equal sizes"
        )


def _part(progress: Progress, name: str) -> Callable[[float], None]:
    """Starts a part of the measurement. Returns a function that receives the share of it that is done."""
    names = list(SHARES)
    before = sum(SHARES[earlier] for earlier in names[: names.index(name)])

    def on_part(share: float) -> None:
        progress(name, before + SHARES[name] * share)

    on_part(0.0)
    return on_part


def _slice(on_part: Callable[[float], None], number: int, count: int) -> Callable[[float], None]:
    """Reports the `number`-th of `count` equal pieces of a part."""
    return lambda share: on_part((number + share) / count)


def _load_average() -> float | None:
    """Average number of programs that needed a core in the last minute. None where it is unknown."""
    if not hasattr(os, "getloadavg"):
        return None
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def this_machine() -> Machine:
    """The machine of the comparison, and how busy it is now."""
    return Machine(
        processor=_processor(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        python=platform.python_version(),
        cores=os.cpu_count() or 1,
        load_before=_load_average(),
    )


def _processor() -> str:
    """The processor's name if the system has it, else its architecture."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def structure(model: RecurrentModel, cell: str, package: Path) -> Structure:
    """The structure of a model, from its manifest and tensors. Nothing is run."""
    manifest = model.manifest
    layer = manifest.stack[0]
    facts = facts_of(layer.cell)
    tensors = expected_tensors(manifest)
    stack = [info for name, info in tensors.items() if name.startswith("stack.")]
    return Structure(
        cell=cell,
        equation=facts.equation,
        gates=facts.gates,
        state_tensors=tuple(state.name for state in layer.states),
        layers=len(manifest.stack),
        hidden=manifest.hidden,
        stack_parameters=sum(prod(info.shape) for info in stack),
        parameters=model.parameters,
        state_bytes=model.state_bytes,
        package_bytes=sum(file.stat().st_size for file in package.iterdir() if file.is_file()),
    )
