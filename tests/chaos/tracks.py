"""What goes into a session of a load, what has come out of it, and what should have."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from support.server import FEATURES, GRU_BYTES, LSTM

import carousel
from tests.parity import reference

PERIOD = 4096
"""Rows after which a session's inputs come again."""

_SPANS_AT_ONCE = 1024
"""Episodes whose equations are computed together."""

EPISODE_STARTS = 0.15
"""Share of the rows that begin one."""

TOLERANCE = 2e-5
TOKENS = 24
"""Drawn by one generation of a text."""

Span = tuple[int, int, int]
"""Session, first row, and the row behind the last, of one episode."""


@dataclass
class Track:
    """A session's outputs so far.

    Attributes:
        id, durability: of the session.
        seed: of its inputs.
        resets: it runs one episode, or text, after the other.
        driver: name of the driver that has it.
        count: outputs, or tokens, that have come.
        asked: how many the application has asked for.
        next_at_s: when the first came after `mark`; None before.
        pauses: for each time that something came, since when the application had waited for it, and for
            how long, in seconds of the monotonic clock.
    """

    id: str
    durability: str
    seed: int
    resets: bool = False
    driver: str = ""
    count: int = 0
    asked: int = 0
    next_at_s: float | None = None
    pauses: list[tuple[float, float]] = field(default_factory=list)
    waits_since_s: float = 0.0

    def asks(self, count: int) -> None:
        """The application asks for so many outputs now."""
        if self.asked == self.count:
            self.waits_since_s = time.monotonic()
        self.asked += count

    def mark(self) -> None:
        """From now on the next output counts as the first."""
        self.next_at_s = None

    def got(self, part: Any) -> None:
        """These outputs, or tokens, have come."""
        self.keep(part)
        self.count += len(part)
        now_s = time.monotonic()
        self.pauses.append((self.waits_since_s, now_s - self.waits_since_s))
        self.waits_since_s = now_s
        if self.next_at_s is None:
            self.next_at_s = now_s

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
    undisturbed = expected_outputs(tracks, package, quiet)
    for i, track in enumerate(tracks):
        outputs = track.outputs()
        wrong = np.flatnonzero((outputs != undisturbed[i, : track.count]).any(axis=1))
        assert not wrong.size, (
            f"session {track.id} ({track.durability}): output {wrong[0] + 1} of {track.count} is "
            f"{outputs[wrong[0]]}, not {undisturbed[i, wrong[0]]}"
        )


def expected_outputs(tracks: Sequence[StepTrack], package: Path, quiet: str) -> np.ndarray:
    """Outputs of an undisturbed run, as long as the longest track: float32[tracks, steps, width].

    They agree with the equations in float64.
    """
    longest = max(track.count for track in tracks)
    rows = np.stack([track.rows(0, longest) for track in tracks])
    begins = np.stack([track.begins(0, longest) for track in tracks])
    undisturbed = _undisturbed(quiet, rows, begins)
    by_equations = _by_equations(package, rows, begins)
    np.testing.assert_allclose(undisturbed, by_equations, atol=TOLERANCE, rtol=0)
    return undisturbed


def check_texts(tracks: Sequence[TextTrack], quiet: str) -> None:
    """Every token of every text against a session to which nothing happens."""
    with carousel.Client(quiet) as client:
        for track in tracks:
            for number, tokens in enumerate(expected_texts(client, track)):
                assert track.texts[number] == tokens, (
                    f"session {track.id}: text {number} is another"
                )


def expected_texts(client: carousel.Client, track: TextTrack) -> Iterator[list[int]]:
    """The tokens of each text of a track, by a server to which nothing happens."""
    with client.session(GRU_BYTES) as session:
        for number in range(len(track.texts)):
            if track.begins(number):
                session.reset()
            yield [token.id for token in session.generate(**track.arguments(number))]


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
    spans.sort(key=lambda span: span[2] - span[1])
    parts = [spans[at : at + _SPANS_AT_ONCE] for at in range(0, len(spans), _SPANS_AT_ONCE)]
    found = [_run_spans(package, rows, part) for part in parts]
    outputs = np.empty((sessions, steps, found[0].shape[2]))
    for part, alone in zip(parts, found, strict=True):
        for place, (session, begin, end) in enumerate(part):
            outputs[session, begin:end] = alone[place, : end - begin]
    return outputs


def _run_spans(package: Path, rows: np.ndarray, spans: Sequence[Span]) -> np.ndarray:
    """Outputs of each span (session, begin, end), padded to the longest; float64[spans, steps, width]."""
    # What follows the shorter ones changes nothing before it.
    padded = np.zeros((len(spans), max(end - begin for _, begin, end in spans), rows.shape[2]))
    for place, (session, begin, end) in enumerate(spans):
        padded[place, : end - begin] = rows[session, begin:end]
    outputs: np.ndarray = reference.run(package, padded.transpose(1, 0, 2))["y"]
    return outputs.transpose(1, 0, 2)


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
