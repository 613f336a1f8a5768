"""What a process of clients writes is what the harness reads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

import carousel
from carousel.testing import FakeModel, FakeServer
from tests.chaos.tracks import StepTrack, TextTrack, Track
from tests.cluster import records
from tests.cluster.records import Record

SUM = FakeModel(
    "sum",
    lambda x, state: (np.array([state + x.sum()], np.float32), state + np.float32(x.sum())),
    features=1,
    outputs=1,
    initial=np.float32(0),
)


def test_tracks_come_back_as_they_were(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
    stepped = StepTrack("a", "sync", 1, resets=True, driver="by_tasks", asked=6)
    stepped.got(rows[:2])
    stepped.got(rows[2:])
    text = TextTrack("b", "async", 2, asked=4, texts=[[]])
    text.got([7, 8])
    silent = StepTrack("c", "async", 3)
    tracks: list[Track] = [stepped, text, silent]
    saved = Record(tracks, Counter({"moves": 2}), Counter({"SESSION_HELD": 3}), [0.25, 0.5])
    records.save(tmp_path / "file.npz", saved)
    loaded = records.load(tmp_path / "file.npz")
    assert (loaded.counts, loaded.move_pauses_s) == (saved.counts, [0.25, 0.5])
    assert loaded.refusals == saved.refusals
    found = loaded.tracks
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


def test_records_of_several_processes_are_joined() -> None:
    whole = Record()
    for number in range(3):
        track = StepTrack(str(number), "async", number)
        whole.add(Record([track], Counter({"reconnects": number}), Counter("a"), [0.1 * number]))
    assert [track.id for track in whole.tracks] == ["0", "1", "2"]
    assert whole.counts["reconnects"] == 3
    assert whole.refusals == {"a": 3}
    assert len(whole.move_pauses_s) == 3


def test_statistics_of_clients_are_summed() -> None:
    with FakeServer(SUM) as fake, carousel.Client(fake.target) as client:
        session = client.session("sum")
        session.step([1.0])
        fake.break_streams()
        session.step([1.0])
        statistics = client.statistics()
    assert statistics.reconnects > 0
    record = records.of_clients([], [statistics, statistics])
    assert record.counts["reconnects"] == 2 * statistics.reconnects
    assert set(record.counts) <= set(records.COUNTS)
