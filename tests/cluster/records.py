"""What a process of clients has got, as a file for the harness."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.chaos.tracks import StepTrack, TextTrack, Track

_FACTS = ("id", "durability", "seed", "resets", "count", "asked", "driver")


def save(path: Path, tracks: Sequence[Track]) -> None:
    """Writes all tracks: facts and texts as JSON, outputs and pauses as arrays."""
    arrays: dict[str, np.ndarray] = {}
    facts = []
    for number, track in enumerate(tracks):
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
    arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    np.savez(path, **arrays)  # type: ignore[arg-type]


def load(path: Path) -> list[Track]:
    """The tracks of a file that `save` has written."""
    tracks: list[Track] = []
    with np.load(path, allow_pickle=False) as arrays:
        for number, fact in enumerate(json.loads(arrays["facts"].tobytes())):
            texts = fact.pop("texts", None)
            track: Track = StepTrack(**fact) if texts is None else TextTrack(**fact, texts=texts)
            if isinstance(track, StepTrack) and track.count:
                track.parts = [arrays[f"outputs{number}"]]
            track.pauses = [(since, took) for since, took in arrays[f"pauses{number}"].tolist()]
            tracks.append(track)
    return tracks
