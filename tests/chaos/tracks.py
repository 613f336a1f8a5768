"""What goes into a session of a load, what has come out of it, and what should have."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from support.server import FEATURES, GRU_BYTES, LSTM

import carousel
from tests.parity import reference

PERIOD = 1024
"""Rows after which a session's inputs come again."""

EPISODE_STARTS = 0.15
"""Share of the rows that begin one."""

TOLERANCE = 2e-5
TOKENS = 24
"""Drawn by one generation of a text."""


@dataclass
class Track:
    """A session's outputs so far.

    Attributes:
        id, durability: of the session.
        seed: of its inputs.
        resets: it runs one episode, or text, after the other.
        count: outputs, or tokens, that have come.
        next_at_s: when the first came after `mark`; None before.
    """

    id: str
    durability: str
    seed: int
    resets: bool = False
    count: int = 0
    next_at_s: float | None = None

    def mark(self) -> None:
        """From now on the next output counts as the first."""
        self.next_at_s = None

    def got(self, part: Any) -> None:
        """These outputs, or tokens, have come."""
        self.keep(part)
        self.count += len(part)
        if self.next_at_s is None:
            self.next_at_s = time.monotonic()

    def keep(self, part: Any) -> None:
        """For the comparison at the end."""
        raise NotImplementedError


@dataclass
class StepTrack(Track):
    """Rows of LSTM go in; every session has rows of its own."""

    parts: list[np.ndarray] = field(default_factory=list)

    def keep(self, part: np.ndarray) -> None:
        """Output rows."""
        self.parts.append(part)

    def rows(self, first: int, count: int) -> np.ndarray:
        """Input rows of the steps first + 1, …"""
        rows: np.ndarray = inputs(self.seed)[np.arange(first, first + count) % PERIOD]
        return rows

    def begins(self, first: int, count: int) -> np.ndarray:
        """Which of the steps first + 1, … begin an episode; bool[count]."""
        if not self.resets:
            return np.zeros(count, np.bool_)
        found: np.ndarray = episode_starts(self.seed)[np.arange(first, first + count) % PERIOD]
        return found

    def outputs(self) -> np.ndarray:
        """Everything that has come, in the order in which it came."""
        return np.concatenate(self.parts)


@dataclass
class TextTrack(Track):
    """Texts of GRU_BYTES, one after the other in one session; `texts` are their tokens."""

    texts: list[list[int]] = field(default_factory=list)

    def keep(self, part: Sequence[int]) -> None:
        """Tokens of the newest text."""
        self.texts[-1] += part

    def begins(self, number: int) -> bool:
        """Whether the n-th generation starts from the initial state; it has a prompt then."""
        return self.resets and number % 4 == 2

    def arguments(self, number: int) -> dict[str, Any]:
        """What is asked of the n-th generation; every second one goes on without a prompt."""
        prompt = None if number % 2 else f"text {self.seed} part {number}"
        return {"prompt": prompt, "max_tokens": TOKENS, "seed": self.seed * 1000 + number}


def inputs(seed: int) -> np.ndarray:
    """float32[PERIOD, FEATURES]."""
    if seed not in _INPUTS:
        rng = np.random.default_rng(seed)
        _INPUTS[seed] = rng.standard_normal((PERIOD, FEATURES)).astype("<f4")
    return _INPUTS[seed]


def episode_starts(seed: int) -> np.ndarray:
    """bool[PERIOD]: rows that begin an episode, some of them one after the other."""
    return np.random.default_rng((seed, 1)).random(PERIOD) < EPISODE_STARTS


_INPUTS: dict[int, np.ndarray] = {}


def check_steps(tracks: Sequence[StepTrack], package: Path, quiet: str) -> None:
    """Every output of every session, in its place: against the equations, and to the bit.

    Args:
        tracks: what has come.
        package: the model's folder, for the equations in float64.
        quiet: a strict server to which nothing happens; it gives the bits.
    """
    longest = max(track.count for track in tracks)
    rows = np.stack([track.rows(0, longest) for track in tracks])
    begins = np.stack([track.begins(0, longest) for track in tracks])
    by_equations = _by_equations(package, rows, begins)
    undisturbed = _undisturbed(quiet, rows, begins)
    np.testing.assert_allclose(undisturbed, by_equations, atol=TOLERANCE, rtol=0)
    for i, track in enumerate(tracks):
        outputs = track.outputs()
        wrong = np.flatnonzero((outputs != undisturbed[i, : track.count]).any(axis=1))
        assert not wrong.size, (
            f"session {track.id} ({track.durability}): output {wrong[0] + 1} of {track.count} is "
            f"{outputs[wrong[0]]}, not {undisturbed[i, wrong[0]]}"
        )


def check_texts(tracks: Sequence[TextTrack], quiet: str) -> None:
    """Every token of every text against a session to which nothing happens."""
    with carousel.Client(quiet) as client:
        for track in tracks:
            with client.session(GRU_BYTES) as session:
                for number, text in enumerate(track.texts):
                    if track.begins(number):
                        session.reset()
                    tokens = [token.id for token in session.generate(**track.arguments(number))]
                    assert text == tokens, f"session {track.id}: text {number} is another"


def _by_equations(package: Path, rows: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Outputs of rows [sessions, steps, ...] in float64, each episode as a sequence of its own."""
    sessions, steps = begins.shape
    first = np.zeros(steps, np.bool_)
    first[0] = True
    spans = [
        (session, begin, end)
        for session in range(sessions)
        for begin, end in pairwise([*np.flatnonzero(begins[session] | first).tolist(), steps])
    ]
    # What follows the shorter ones changes nothing before it.
    padded = np.zeros((len(spans), max(end - begin for _, begin, end in spans), rows.shape[2]))
    for place, (session, begin, end) in enumerate(spans):
        padded[place, : end - begin] = rows[session, begin:end]
    alone = reference.run(package, padded.transpose(1, 0, 2))["y"].transpose(1, 0, 2)
    outputs = np.empty((sessions, steps, alone.shape[2]))
    for place, (session, begin, end) in enumerate(spans):
        outputs[session, begin:end] = alone[place, : end - begin]
    return outputs


def _undisturbed(quiet: str, rows: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Outputs of rows [sessions, steps, ...] where nothing happens."""
    with carousel.Client(quiet, timeout_s=90) as client:
        sessions = [client.session(LSTM) for _ in rows]
        batch = client.batch(sessions)
        parts = [
            batch.steps(rows[:, at : at + 32], resets=begins[:, at : at + 32])
            for at in range(0, rows.shape[1], 32)
        ]
        for session in sessions:
            session.close()
    return np.concatenate(parts, axis=1)
