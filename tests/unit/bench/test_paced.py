"""The plain loop that the figure of real-time streams is measured against."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from bench import paced, plain_loop

from carousel.cli.load.plan import Load, Result, Sample

LOAD = Load("silero", 4, 50.0, duration_s=0.2, warm_s=0.1, deadline_s=5.0)


def looped(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0) -> tuple[Result, list[int]]:
    """A run with a step that takes so long, and the streams in the order of their steps."""
    seen: list[int] = []

    def made(_path: Path, _streams: int) -> plain_loop.Step:
        def step(stream: int, samples: np.ndarray) -> None:
            seen.append(stream)
            assert samples.shape == (512,)
            time.sleep(seconds)

        return step

    monkeypatch.setitem(plain_loop.LOOPS, "silero", made)
    return plain_loop.run("silero", Path(), LOAD, 512), seen


def test_the_loop_takes_the_frames_of_all_streams_in_order(monkeypatch):
    result, seen = looped(monkeypatch)
    assert (result.sample.due, len(result.sample.latencies_s)) == (40, 40)
    assert seen[3:] == [n % 4 for n in range(60)]
    assert result.holds


def test_a_loop_that_is_far_behind_has_failed_and_ends(monkeypatch):
    monkeypatch.setattr(plain_loop, "HOPELESS", 0.01)
    result, seen = looped(monkeypatch, seconds=0.03)
    assert not result.holds
    assert len(seen) < 60


def test_the_most_streams_are_those_that_hold():
    def measured(load: Load) -> Result:
        return Result(load, Sample([0.001 if load.streams <= 30 else 9.0], [], 1))

    most = paced._most(LOAD, measured)
    assert 27 <= most["most_streams"] <= 30
    assert most["p99_ms"] == pytest.approx(1.0)


def test_a_model_that_never_holds_has_no_streams():
    assert paced._most(LOAD, lambda load: Result(load, Sample([9.0], [], 1))) == {
        "most_streams": 0.0
    }


def test_each_model_has_a_loop():
    assert {model.name for model in paced.MODELS} <= set(plain_loop.LOOPS)
