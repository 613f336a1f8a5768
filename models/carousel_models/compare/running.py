"""Runs the whole comparison."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import torch

from carousel_models.errors import PackageError
from carousel_models.loading import load
from carousel_models.model import RecurrentModel
from carousel_models.package import zoo_path

from .corpus import standard_library
from .fitness import fits
from .quality import text_quality
from .recall import RecallTask, recall
from .results import Comparison, Machine
from .speed import speed
from .structure import structure

CELLS = ("rnn", "lstm", "gru")
PREFIX = "pychar-"


def run(
    zoo_dir: Path | str | None = None,
    *,
    seconds_per_measurement: float = 1.0,
    held_out_bytes: int = 100_000,
    task: RecallTask | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Measures RNN, LSTM and GRU on this machine: the models `pychar-*`, alike in all but their cell.

    Args:
        zoo_dir: folder of the packages; the shipped zoo if None.
        seconds_per_measurement: time for the step latency of one cell at one batch.
        held_out_bytes: at most so much held-out text is read.
        task: the memory task; its standard form if None, which takes about ten seconds.
        progress: told in a few words what is measured next.

    Raises:
        PackageError: one of the three packages is missing or damaged.
        CorpusMissingError: this Python carries no library sources to read.
    """
    zoo = zoo_path() if zoo_dir is None else Path(zoo_dir)
    packages = {cell: zoo / f"{PREFIX}{cell}" for cell in CELLS}
    models = {cell: load(path) for cell, path in packages.items()}
    _alike(models)
    _, held_out = standard_library()
    text = held_out.sample(held_out_bytes)
    progress("reading Python that no model has seen")
    shapes = tuple(structure(models[cell], cell, packages[cell]) for cell in CELLS)
    qualities = tuple(text_quality(models[cell], cell, text) for cell in CELLS)
    progress("timing steps alone and in batches")
    speeds = speed(models, seconds_per_measurement)
    progress("training small networks on a memory task")
    recalled = recall(CELLS, task)
    return Comparison(
        machine=_machine(),
        structure=shapes,
        quality=qualities,
        speed=speeds,
        recall=recalled,
        fits=fits(shapes, qualities, speeds, recalled),
    )


def _alike(models: dict[str, RecurrentModel]) -> None:
    """A comparison of cells is one only if all the rest is equal."""
    sizes = {
        (model.manifest.hidden, len(model.manifest.stack), model.manifest.stack_input_width)
        for model in models.values()
    }
    if len(sizes) != 1:
        raise PackageError(
            f"the {PREFIX}* models differ in (hidden, layers, input width): {sorted(sizes)}; train them "
            "again with equal sizes"
        )


def _machine() -> Machine:
    return Machine(
        processor=_processor(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        python=platform.python_version(),
    )


def _processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
