"""What a process of clients writes is what the harness reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.chaos.tracks import StepTrack, TextTrack, Track
from tests.cluster import records


def test_tracks_come_back_as_they_were(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
    stepped = StepTrack("a", "sync", 1, resets=True, driver="by_tasks", asked=6)
    stepped.got(rows[:2])
    stepped.got(rows[2:])
    text = TextTrack("b", "async", 2, asked=4, texts=[[]])
    text.got([7, 8])
    silent = StepTrack("c", "async", 3)
    tracks: list[Track] = [stepped, text, silent]
    records.save(tmp_path / "file.npz", tracks)
    found = records.load(tmp_path / "file.npz")
    assert [(t.id, t.durability, t.seed, t.resets, t.driver, t.count, t.asked) for t in found] == [
        ("a", "sync", 1, True, "by_tasks", 5, 6),
        ("b", "async", 2, False, "", 2, 4),
        ("c", "async", 3, False, "", 0, 0),
    ]
    assert [t.pauses for t in found] == [t.pauses for t in tracks]
    assert isinstance(found[0], StepTrack)
    np.testing.assert_array_equal(found[0].outputs(), rows)
    assert isinstance(found[1], TextTrack)
    assert found[1].texts == [[7, 8]]
