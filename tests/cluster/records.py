"""What a process of clients has got, as a file for the harness."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import carousel
from tests.chaos.tracks import StepTrack, TextTrack, Track

COUNTS = ("reconnects", "rebinds", "moves", "redirects")
"""Of the statistics of a client."""

_FACTS = ("id", "durability", "seed", "resets", "count", "asked", "driver")


@dataclass
class Record:
    """What clients have got.

    Attributes:
        tracks: the sessions.
        counts: what the clients' statistics count, such as reconnects, summed by its name.
        refusals: of outsiders, by their reasons.
        move_pauses_s: of each session that a server has handed over, from the message that says so until it
            was bound at the other server.
    """

    tracks: list[Track] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    move_pauses_s: list[float] = field(default_factory=list)

    def add(self, other: Record) -> None:
        """Joins what other clients have got."""
        self.tracks += other.tracks
        self.counts += other.counts
        self.refusals += other.refusals
        self.move_pauses_s += other.move_pauses_s


def of_clients(tracks: Sequence[Track], statistics: Sequence[carousel.ClientStatistics]) -> Record:
    """The record of one process."""
    record = Record(list(tracks))
    for one in statistics:
        record.counts += Counter({name: getattr(one, name, 0) for name in COUNTS})
        record.move_pauses_s += getattr(one, "move_pauses_s", ())
    return record


def save(path: Path, record: Record) -> None:
    """Writes facts and texts as JSON, outputs and pauses as arrays."""
    arrays: dict[str, np.ndarray] = {"move_pauses_s": np.array(record.move_pauses_s)}
    facts = []
    for number, track in enumerate(record.tracks):
        fact: dict[str, object] = {name: getattr(track, name) for name in _FACTS}
        if isinstance(track, StepTrack):
            if track.count:
                arrays[f"outputs{number}"] = track.outputs()
        elif isinstance(track, TextTrack):
            fact["texts"] = track.texts
        else:
            raise TypeError(f"no way to save a {type(track).__name__}")
        arrays[f"pauses{number}"] = np.array(track.pauses).reshape(-1, 2)
        facts.append(fact)
    text = json.dumps({"tracks": facts, "counts": record.counts, "refusals": record.refusals})
    arrays["facts"] = np.frombuffer(text.encode(), np.uint8)
    np.savez(path, **arrays)  # type: ignore[arg-type]


def load(path: Path) -> Record:
    """What `save` has written."""
    with np.load(path, allow_pickle=False) as arrays:
        facts = json.loads(arrays["facts"].tobytes())
        counts, refusals = Counter(facts["counts"]), Counter(facts["refusals"])
        record = Record([], counts, refusals, arrays["move_pauses_s"].tolist())
        for number, fact in enumerate(facts["tracks"]):
            texts = fact.pop("texts", None)
            track: Track = StepTrack(**fact) if texts is None else TextTrack(**fact, texts=texts)
            if isinstance(track, StepTrack) and track.count:
                track.parts = [arrays[f"outputs{number}"]]
            track.pauses = [(since, took) for since, took in arrays[f"pauses{number}"].tolist()]
            record.tracks.append(track)
    return record
