"""What a tick costs is measured for every way in which its rows can come."""

from __future__ import annotations

from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from bench import ticks


def test_every_workload_steps_and_has_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticks, "TARGETS_US", {4: 2.0})
    monkeypatch.setattr(ticks, "SINGLE_ROWS", (3,))
    work: Any = ticks.workloads(Namespace(seconds=0.001), "cpu", tmp_path, ExitStack(), Namespace())  # type: ignore[arg-type]
    figures = {
        one.name: {quantity: {"median": value} for quantity, value in one.measure().items()}
        for one in work
    }
    assert all(value["median"] > 0 for of in figures.values() for value in of.values())
    told = dict(ticks.ratios(figures))
    tick_us = figures["4 rows in one block of arrays"]["cpu_us"]["median"]
    assert told["4 rows in one block of arrays: over 2 µs a tick"] == tick_us / 2
    assert len(told) == len(figures)
