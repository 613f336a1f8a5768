"""Runs the whole comparison."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path

import torch

from carousel_models.cell_facts import facts_of
from carousel_models.creating import random_tensors
from carousel_models.errors import PackageError
from carousel_models.kernels import choose
from carousel_models.loading import build, load
from carousel_models.model import RecurrentModel
from carousel_models.package import zoo_path
from carousel_models.tensors import expected_tensors

from .cells import CELLS, compared
from .corpus import standard_library
from .fitness import fits
from .quality import text_quality
from .recall import RecallTask, recall
from .results import Comparison, Machine, Structure
from .speed import speed

PREFIX = "pychar-"
TRAINED = ("rnn", "lstm", "gru")
"""Cells whose text models must be in the zoo. Those of others are compared where they are there."""

READING = "reading Python that no model has seen"
TIMING = "timing steps alone and in batches"
TRAINING = "training small networks on a memory task"
SHARES = {READING: 0.02, TIMING: 0.18, TRAINING: 0.80}
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
    cells: Sequence[str] = tuple(CELLS),
) -> Comparison:
    """Measures cells on this machine. The models `pychar-*` differ in their cell only.

    A cell without such a package is measured with random weights in the same sizes, and has no quality.

    Args:
        zoo_dir: folder of the packages; the shipped zoo if None.
        seconds_per_measurement: time for the step latency of one cell at one batch.
        held_out_bytes: at most so much held-out text is read.
        task: the memory task; its standard form if None, which takes about a minute for all cells.
        progress: called at the start of each part, and often within it.
        cells: names of `cells.CELLS`, in the order of the results.

    Raises:
        PackageError: the package of RNN, LSTM or GRU is missing, a package is damaged, or a cell is unknown.
        CorpusMissingError: this Python carries no library sources to read.
    """
    zoo = zoo_path() if zoo_dir is None else Path(zoo_dir)
    machine = this_machine()
    packages = _packages(zoo, cells)
    trained = {name: load(path) for name, path in packages.items()}
    _alike(trained)
    models = {name: trained.get(name) or _untrained(name, trained["gru"]) for name in cells}
    _, held_out = standard_library()
    text = held_out.sample(held_out_bytes)
    shapes = tuple(structure(models[name], name, packages.get(name)) for name in cells)
    read = _part(progress, READING)
    texts = [name for name in cells if name in trained]
    qualities = tuple(
        text_quality(models[name], name, text, _slice(read, number, len(texts)))
        for number, name in enumerate(texts)
    )
    speeds = speed(models, seconds_per_measurement, on_part=_part(progress, TIMING))
    recalled = recall(cells, task, _part(progress, TRAINING))
    return Comparison(
        machine=machine,
        structure=shapes,
        quality=qualities,
        speed=speeds,
        recall=recalled,
        fits=fits(shapes, qualities, speeds, recalled),
    )


def _packages(zoo: Path, cells: Sequence[str]) -> dict[str, Path]:
    """The packages of the cells that have one, and those of TRAINED, whose sizes the others get."""
    for name in cells:
        compared(name)
    paths = {name: zoo / f"{PREFIX}{name}" for name in dict.fromkeys((*TRAINED, *cells))}
    return {name: path for name, path in paths.items() if name in TRAINED or path.exists()}


def _untrained(name: str, like: RecurrentModel) -> RecurrentModel:
    """A model of another cell with random weights, and with the sizes of a trained one."""
    manifest = like.manifest
    layers, spec = len(manifest.stack), manifest.stack[0]
    module = compared(name).make(manifest.stack_input_width, spec.hidden)
    manifest = manifest.model_copy(update={"name": name, "stack": (module.spec,) * layers})
    kernel = choose("auto", torch.device("cpu"))
    return build(manifest, random_tensors(manifest, seed=0), kernel=kernel)


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


def structure(model: RecurrentModel, cell: str, package: Path | None) -> Structure:
    """The structure of a model, from its manifest and tensors. Nothing is run."""
    files = () if package is None else package.iterdir()
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
        package_bytes=sum(file.stat().st_size for file in files if file.is_file()),
    )
