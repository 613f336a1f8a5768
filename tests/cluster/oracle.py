"""The judge of a run: what each session should have got, and what it has got."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import carousel
from tests.chaos.tracks import (
    StepTrack,
    TextTrack,
    Track,
    expected_outputs,
    expected_texts,
)

_TOGETHER = 64
"""Sessions whose undisturbed run is one batch."""


@dataclass(frozen=True)
class Verdict:
    """What is wrong with the outputs of one session.

    Attributes:
        session: its id.
        outputs: how many have come.
        lost: how many were asked for and never came.
        doubled: how many came again.
        wrong: how many are no output of this session.
        first: the first difference, for people; empty if all is right.
    """

    session: str
    outputs: int
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    first: str = ""

    @property
    def holds(self) -> bool:
        """Each output came once, in its place."""
        return not (self.lost or self.doubled or self.wrong)


def judge(
    session: str, got: Sequence[Hashable], expected: Sequence[Hashable], asked: int
) -> Verdict:
    """Compares outputs in the order in which they came.

    Args:
        session: its id.
        got: what has come.
        expected: what an undisturbed session says, at least `asked` long.
        asked: how many outputs the application has asked for.
    """
    places: dict[Hashable, list[int]] = defaultdict(list)
    for place, output in enumerate(expected):
        places[output].append(place)
    lost = doubled = wrong = at = 0
    first = ""
    for number, output in enumerate(got):
        if at < len(expected) and output == expected[at]:
            at += 1
            continue
        first = first or f"output {number + 1} of {len(got)} is not number {at + 1} of {session}"
        where = places.get(output, [])
        ahead = bisect_left(where, at)
        if ahead < len(where):
            lost += where[ahead] - at
            at = where[ahead] + 1
        elif where:
            doubled += 1
        else:
            wrong += 1
            at += 1
    if asked > at:
        first = first or f"{asked - at} of {asked} outputs of {session} never came"
        lost += asked - at
    return Verdict(session, len(got), lost, doubled, wrong, first)


def judge_all(tracks: Sequence[Track], package: Path, quiet: str) -> Iterator[Verdict]:
    """A verdict for each session.

    Args:
        tracks: all sessions, each with what it has got.
        package: folder of the model of steps, for the equations in float64.
        quiet: address of a strict server to which nothing happens.
    """
    stepped = [t for t in tracks if isinstance(t, StepTrack) and t.count]
    stepped.sort(key=lambda track: track.count)
    for at in range(0, len(stepped), _TOGETHER):
        some = stepped[at : at + _TOGETHER]
        for track, rows in zip(some, expected_outputs(some, package, quiet), strict=True):
            got = [row.tobytes() for row in track.outputs()]
            yield judge(track.id, got, [row.tobytes() for row in rows], track.asked)
    with carousel.Client(quiet) as client:
        for text in (t for t in tracks if isinstance(t, TextTrack)):
            got = [tuple(tokens) for tokens in text.texts]
            expected = [tuple(tokens) for tokens in expected_texts(client, text)]
            yield judge(text.id, got, expected, len(text.texts))
    for silent in (t for t in tracks if not t.count):
        yield judge(silent.id, [], [], max(silent.asked, 1))
