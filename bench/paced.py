"""(h) Real-time streams of sound: how many have their output within one frame, at the 99th percentile.

Silero VAD has 31.25 frames a second, and DTLN 125. The yardstick is the plain loop of onnxruntime in one
process, with the sound in the same process. Carousel runs as a server, with the clients in a process of their
own on the same machine. Its streams come in messages of twenty, as from a gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from carousel.cli.commands.bench import searched
from carousel.cli.load.clients import Target, measure
from carousel.cli.load.plan import Load, Result
from carousel_models import import_file, program, save
from carousel_models.given_parts import GivenPart
from carousel_models.spec import FramesInput, OverlapAdd
from carousel_models.stack_kinds import IrfftPart, MagnitudePart, MultiplyPart, RfftPart
from carousel_models.stack_parts import StackPart

from . import plain_loop, processes
from .figures import Measured, Workload
from .report import Summary

TOGETHER = 20
LEAST = 3.0
"""The target: streams over those of the plain loop."""


class Model(NamedTuple):
    """A model of the figure: its frames, the file of the plain loop, and the names of its packages."""

    name: str
    hop: int
    rate_hz: float
    path: str
    packages: tuple[str, ...]


SILERO = Model(
    "silero", 512, 31.25, "silero_vad/data/silero_vad.onnx", ("silero-onnx", "silero-torchscript")
)
DTLN = Model("dtln", 128, 125.0, "livekit/plugins/dtln/models", ("dtln-chain",))
MODELS = (SILERO, DTLN)


def workloads(
    options: argparse.Namespace,
    device: str,
    folder: Path,
    stack: ExitStack,
    _runner: asyncio.Runner,
) -> Sequence[Workload]:
    """The plain loop and each package of each model, in turns."""
    make(folder)
    address = stack.enter_context(processes.carousel_server(folder, device, slots=4096))
    found = []
    for model in MODELS:
        load = Load(
            model.name, TOGETHER, model.rate_hz, duration_s=options.seconds,
            deadline_s=1 / model.rate_hz,
        )  # fmt: skip
        found.append(Workload(plain_name(model), partial(_most, load, partial(_alone, model))))
        for package in model.packages:
            served = Load(
                package, TOGETHER, model.rate_hz, together=TOGETHER, duration_s=options.seconds,
                deadline_s=1 / model.rate_hz,
            )  # fmt: skip
            through = partial(measure, Target(address, None, None))
            found.append(Workload(package, partial(_most, served, through)))
    return found


def make(folder: Path) -> None:
    """Writes the packages."""
    _dtln(folder / "dtln-chain")
    shape = ("state=2,B,128",)
    import_file(
        _file(SILERO.path), name="silero-onnx", dir=folder, context=64,
        constant=("sr=16000",), shape=("input=B,576",),
    )  # fmt: skip
    script = folder.parent / "silero.ts"
    whole = torch.jit.load(str(_file("silero_vad/data/silero_vad.jit")))  # type: ignore[no-untyped-call]
    whole._model.save(str(script))  # noqa: SLF001 - the pure step inside of the module with a state
    import_file(
        script, name="silero-torchscript", dir=folder, context=64, shape=("x=B,576", *shape)
    )


def _dtln(package: Path) -> None:
    mask, clean = (
        program(
            name, _file(DTLN.path) / f"model_{number}.onnx", free_batch=True,
            state=[f"input_{2 * number + 1}:tf_op_layer_stack_{3 * number - 1}"],
        )
        for number, name in ((1, "mask"), (2, "clean"))
    )  # fmt: skip
    parts: list[GivenPart | StackPart] = [
        RfftPart(name="spectrum"), MagnitudePart(name="magnitude"), mask,
        MultiplyPart(name="masked", from_=("spectrum", "mask")),
        IrfftPart(name="frame", samples=512), clean,
    ]  # fmt: skip
    frames = FramesInput(hop=128, context=384, rate=16000, encoding="float32")
    save(package, stack=parts, frames=frames, overlap_add=OverlapAdd(hop=128))


def plain_name(model: Model) -> str:
    """The workload of a model's plain loop."""
    return f"{model.name}, plain loop of onnxruntime"


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """Streams of each package over those of the plain loop."""
    for model in MODELS:
        plain = figures[plain_name(model)]["most_streams"]["median"]
        for package in model.packages:
            streams = figures[package]["most_streams"]["median"]
            yield (
                f"{package}: streams over those of the plain loop (at least {LEAST})",
                streams / plain,
            )


def _file(path: str) -> Path:
    """A file of the pinned wheels."""
    from tests.acceptance.originals import (
        original,
    )  # brings pytest, which other figures do not need

    return original(path)


def _most(load: Load, measured: Callable[[Load], Result]) -> Measured:
    """The most streams that hold, and what was measured with them."""
    held = [result for result in searched(load, measured) if result.holds]
    best = max(held, key=lambda result: result.load.streams, default=None)
    if best is None:
        return {"most_streams": 0.0}
    record = best.record()
    return {"most_streams": float(best.load.streams)} | {
        name: float(record[name]) for name in ("steps_per_s", "p50_ms", "p99_ms", "missed_share")
    }


def _alone(model: Model, load: Load) -> Result:
    """The plain loop, in an interpreter of its own."""
    path = _file(model.path)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(plain_loop.run, (model.name, path, load, model.hop))
