"""The loads of overload, prefill and sequences against servers without a model, and what is made of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from bench import overload, prefill, sequences
from bench.arrivals import FIXED, KINDS, VARIED
from bench.models import WIDTH
from bench.padded import padded_batch
from bench.pressing import Pressure, press
from bench.report import Summary
from bench.whole import Arrivals, run
from bench.witness import SESSIONS, Witness

import carousel
from carousel.testing import FakeModel, FakeServer
from carousel_models import create, load

ECHO = FakeModel(
    "echo", lambda x, state: (x, state), features=WIDTH, outputs=WIDTH, window_steps=512
)


def figure(**quantities: float) -> dict[str, dict[str, float]]:
    return {name: {"median": value} for name, value in quantities.items()}


@pytest.mark.parametrize(
    ("rate_per_s", "unread"), [(0.0, 0), (400.0, 1)], ids=["closed loop", "open loop"]
)
def test_a_pressure_is_answered_and_counted(
    rate_per_s: float, unread: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeServer(ECHO) as server:
        pressure = Pressure(
            server.target, "echo", WIDTH * 4, 0.5, streams=2, sessions=3,
            rate_per_s=rate_per_s, unread=unread,
        )  # fmt: skip
        measured = asyncio.run(press(pressure))
    assert capsys.readouterr().out == "{}\n"
    assert measured["goodput_rows_per_s"] > 0
    assert measured["p50_ms"] <= measured["p99_ms"]
    assert not [name for name in measured if name.startswith(("refused", "ended"))]


def test_refusals_of_a_pressure_are_counted_by_reason() -> None:
    with FakeServer(ECHO) as server:
        server.inject("Step", "QUEUE_FULL", times=1_000_000)
        pressure = Pressure(
            server.target, "echo", WIDTH * 4, 0.3, streams=1, sessions=2, rate_per_s=50.0
        )
        measured = asyncio.run(press(pressure))
    assert measured["goodput_rows_per_s"] == 0
    assert measured["refused: QUEUE_FULL, per s"] > 0


def test_the_witness_sees_steps_and_health() -> None:
    async def watch(target: str) -> dict[str, float]:
        witness = Witness(target, "echo")
        await witness.open()
        seen = await witness.watch(0.3)
        await witness.close()
        return seen

    with FakeServer(ECHO) as server:
        seen = asyncio.run(watch(server.target))
    assert seen["others_failed"] == 0
    assert 0 < seen["others_p50_ms"] <= seen["others_p99_ms"]
    assert 0 < seen["health_p99_ms"] <= seen["health_max_ms"]
    assert SESSIONS > 1


@pytest.mark.parametrize("sessions", [True, False], ids=["sessions", "calls"])
@pytest.mark.parametrize("kind", KINDS)
def test_whole_sequences_all_end(kind: str, *, sessions: bool) -> None:
    with FakeServer(ECHO) as server:
        arrivals = Arrivals(server.target, "echo", WIDTH * 4, sessions, kind, 40.0, 0.3)
        measured = asyncio.run(run(arrivals))
        with carousel.Client(server.target) as client:
            assert not list(client.sessions("echo")), "left behind for the next load"
    assert measured["unfinished"] == 0
    assert 0 < measured["p50_ms"] <= measured["p99_ms"]
    assert not [name for name in measured if name.startswith("refused")]


def test_padding_reaches_no_output(tmp_path: Path) -> None:
    create("small", cell="lstm", hidden=8, input="features:4", output=3, dir=tmp_path)
    model = load(tmp_path / "small", device="cpu")
    draw = np.random.default_rng(1)
    rows = [draw.standard_normal((steps, 4)).astype(np.float32) for steps in (1, 7, 3)]
    together = padded_batch(model, rows)
    for sequence, outputs in zip(rows, together, strict=True):
        assert outputs.shape == (len(sequence), 3)
        np.testing.assert_allclose(outputs, padded_batch(model, [sequence])[0], atol=1e-5)


def test_overload_is_judged_by_its_targets() -> None:
    peak = figure(goodput_rows_per_s=1000, others_p99_ms=20)
    over = figure(
        goodput_rows_per_s=950, others_p99_ms=30, health_p99_ms=50, health_max_ms=120,
        **{"refused: UNTYPED, per s": 2, "refused: QUEUE_FULL, per s": 9},
    )  # fmt: skip
    values = [value for _, value in overload.ratios({overload.PEAK: peak, overload.OVERLOAD: over})]
    assert values == pytest.approx([0.95, 1.5, 0.5, 1.2, 2])


def test_prefill_is_judged_in_chunks() -> None:
    beside = figure(inter_token_p50_ms=4, inter_token_p99_ms=9)
    figures: Summary = {
        prefill.CHUNK: figure(chunk_ms=5),
        prefill.ALONE: figure(inter_token_p50_ms=2, inter_token_p99_ms=4),
        **{f"streams beside prompts of {n} tokens": beside for n in prefill.PROMPTS},
    }
    values = [value for _, value in prefill.ratios(figures)]
    assert values == pytest.approx([0.4, 1.0] * len(prefill.PROMPTS))


def test_the_knee_is_the_last_load_that_is_served_as_at_rest() -> None:
    times = dict(zip(sequences.SHARES, (10, 12, 29, 31, 900, 901), strict=True))
    figures: Summary = {
        f"{system}: {kind}, load {share}": figure(p50_ms=ms, p99_ms=2 * ms)
        for system in (sequences.CAROUSEL, sequences.SESSIONS, sequences.PADDED)
        for kind in (FIXED, VARIED)
        for share, ms in times.items()
    } | {sequences.STEP: figure(run_us=100)}
    assert sequences.knee(figures, sequences.CAROUSEL, FIXED) == sequences.SHARES[2]
    values = dict(sequences.ratios(figures))
    assert (
        values[f"carousel: {FIXED}, load {sequences.SHARES[0]}: p99_ms over padded (below 1)"] == 1
    )
    assert values[f"{FIXED}, load {sequences.SHARES[0]}: p50 over 24 steps of the model"] == (
        pytest.approx(10 / 2.4)
    )
