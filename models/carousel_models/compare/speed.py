"""Measures the time of one step. Cells take turns, so that noise affects all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import quantiles

import torch

from carousel_models.model import RecurrentModel

from .results import Speed

BATCHES = (1, 64, 256)
WARM_UP_CALLS = 5
BLOCK_S = 0.004
"""Length of the block of calls in a round, far above the clock's resolution."""
LEAST_ROUNDS = 8

Step = Callable[[], None]


def stepper(model: RecurrentModel, batch: int, seed: int = 0) -> Step:
    """A call that advances `batch` sessions by one random token each."""
    draws = torch.Generator().manual_seed(seed)
    tokens = torch.randint(model.vocabulary, (64, batch), generator=draws)
    state = model.initial_state(batch)
    calls = 0

    def step() -> None:
        nonlocal state, calls
        _, state = model.step(tokens[calls % len(tokens)], state)
        calls += 1

    return step


def seconds_per_call(step: Step, calls: int) -> float:
    """Mean time of `calls` calls in a row."""
    began = time.perf_counter()
    for _ in range(calls):
        step()
    return (time.perf_counter() - began) / calls


def in_turns(steps: Sequence[Step], seconds: float) -> list[list[float]]:
    """Times blocks of calls, one step after the other, round after round.

    Args:
        steps: what to time.
        seconds: for all rounds together; at least LEAST_ROUNDS are made.

    Returns:
        For every step its seconds per call, one entry per round.
    """
    for step in steps:
        seconds_per_call(step, WARM_UP_CALLS)
    blocks = [max(1, round(BLOCK_S / seconds_per_call(step, WARM_UP_CALLS))) for step in steps]
    rounds: list[list[float]] = [[] for _ in steps]
    deadline = time.perf_counter() + seconds
    while len(rounds[0]) < LEAST_ROUNDS or time.perf_counter() < deadline:
        for number, step in enumerate(steps):
            rounds[number].append(seconds_per_call(step, blocks[number]))
    return rounds


def speed(
    models: Mapping[str, RecurrentModel],
    seconds_per_measurement: float,
    batches: Sequence[int] = BATCHES,
    on_part: Callable[[float], None] = lambda _: None,
) -> tuple[Speed, ...]:
    """Median and quartiles of every cell at every batch, on the CPU with torch's present threads.

    `on_part` is called after each batch size with the share that is measured, 0 … 1.
    """
    found = []
    with torch.inference_mode():
        for number, batch in enumerate(batches, 1):
            steps = [stepper(model, batch) for model in models.values()]
            rounds = in_turns(steps, seconds_per_measurement * len(steps))
            for cell, times in zip(models, rounds, strict=True):
                low, median, high = quantiles(times, n=4)
                found.append(Speed(cell, batch, median, low, high, len(times), batch / median))
            on_part(number / len(batches))
    return tuple(found)
