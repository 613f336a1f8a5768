"""What it costs to check that steps are finite: ticks with and without, in turns, in one process."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from carousel_models import RecurrentModel, create, load
from carousel_server.engine import finite
from carousel_server.engine.runner import fields_to_bytes

from . import models
from .bounds import EngineTick, Messages
from .figures import Measured, Workload
from .models import STEPPED, WIDTH
from .report import Summary

BATCHES = (1, 64, 256, 1024)
SMALL = "gru-1x32"
"""A model whose step is so short that everything around it shows."""

MOST_PERCENT = 2.0
"""The target."""


def workloads(
    options: argparse.Namespace,
    device: str,
    folder: Path,
    _stack: ExitStack,
    _runner: asyncio.Runner,
) -> Sequence[Workload]:
    """Engine ticks of one step of each session."""
    models.make(folder, options.dtype)
    create(
        SMALL, cell="gru", hidden=32, input=f"features:{WIDTH}", output=WIDTH,
        dtype=options.dtype, dir=folder,
    )  # fmt: skip
    loaded = [
        load(folder / name, device=device, kernel=options.kernel) for name in (STEPPED, SMALL)
    ]
    return [
        Workload(f"{model.manifest.name}, {batch} sessions", Turns(model, batch, options.seconds))
        for model in loaded
        for batch in BATCHES
    ]


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """The check's share of a tick, over the target."""
    for name, quantities in figures.items():
        share = quantities["check_percent"]["median"]
        yield f"{name}: share of a tick, over {MOST_PERCENT} %", share / MOST_PERCENT


class Turns:
    """One tick with the check, one without it, and so on."""

    def __init__(self, model: RecurrentModel, batch: int, seconds: float) -> None:
        self._tick = EngineTick(model, batch, seconds, Messages(batch))
        self._seconds = seconds
        x = torch.randn(batch, WIDTH, device=model.device)
        with torch.inference_mode():
            self._raw, self._state = model.step(x, model.initial_state(batch))
        self._rules = finite.FiniteRules.of(model)
        self._fields = fields_to_bytes(model.finish(self._raw))

    @torch.inference_mode()
    def __call__(self) -> Measured:
        """`tick_us`, `unchecked_us`: of whole ticks. `check_us`: of the check by itself, and its share."""
        without = mock.patch.object(finite.FiniteRules, "hold", _holds)
        times: dict[bool, list[float]] = {True: [], False: []}
        alone: list[float] = []
        end = time.perf_counter() + self._seconds
        while time.perf_counter() < end or len(alone) < 3:
            for checked in (True, False) if len(alone) % 2 else (False, True):
                with nullcontext() if checked else without:
                    times[checked].append(_timed(self._tick.once))
            self._fields = self._fields.copy()  # just written, as in a tick
            alone.append(_timed(self._check_alone))
        with_it, without_it = np.asarray(times[True]), np.asarray(times[False])
        check, tick = float(np.median(alone)), float(np.median(without_it))
        return {
            "tick_us": float(np.median(with_it)) * 1e6,
            "unchecked_us": tick * 1e6,
            "difference_percent": 100 * float(np.median(with_it / without_it) - 1),
            "check_us": check * 1e6,
            "check_percent": 100 * check / tick,
        }

    def _check_alone(self) -> None:
        self._rules.hold(self._raw, self._state, self._fields)


def _holds(*_: object, fields: object = None) -> bool:
    return True


def _timed(run: Any) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
