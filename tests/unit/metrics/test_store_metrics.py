"""The store's thread writes into the registry what its port says."""

from __future__ import annotations

import pytest

from carousel_server.core.store import Verdict
from carousel_server.metrics import Metrics
from carousel_server.metrics.store import REQUESTS

from .conftest import Read


def test_every_series_is_there_though_there_be_no_store(read: Read) -> None:
    for kind in REQUESTS:
        for answer in ("answered", "failed"):
            assert read("carousel_store_requests_total", kind=kind, answer=answer) == 0
        assert read("carousel_store_request_seconds_count", kind=kind) == 0
    for verdict in ("done", "fenced", "stale"):
        assert read("carousel_store_commits_total", verdict=verdict) == 0
    assert read("carousel_store_sessions") == 0


def test_requests_count_by_kind_and_answer(metrics: Metrics, read: Read) -> None:
    store = metrics.store()
    store.request("acquire", True, 0.001)
    store.request("acquire", False, 0.5)
    store.request("commit", True, 0.002)
    assert read("carousel_store_requests_total", kind="acquire", answer="answered") == 1
    assert read("carousel_store_requests_total", kind="acquire", answer="failed") == 1
    assert read("carousel_store_request_seconds_sum", kind="acquire") == pytest.approx(0.501)
    assert read("carousel_store_request_seconds_count", kind="commit") == 1


def test_a_kind_that_is_not_known_is_our_bug(metrics: Metrics) -> None:
    with pytest.raises(KeyError):
        metrics.store().request("ponder", True, 0.001)


def test_groups_count_their_snapshots(metrics: Metrics, read: Read) -> None:
    store = metrics.store()
    store.commit_group(3, 5000, 0.001, {Verdict.DONE: 2, Verdict.FENCED: 1})
    store.commit_group(1, 100, 0.001, {Verdict.STALE: 1})
    assert read("carousel_store_commits_total", verdict="done") == 2
    assert read("carousel_store_commits_total", verdict="fenced") == 1
    assert read("carousel_store_commits_total", verdict="stale") == 1
    assert read("carousel_store_commit_records_sum") == 4
    assert read("carousel_store_commit_records_count") == 2
    assert read("carousel_store_commit_bytes_total") == 5100


def test_levels(metrics: Metrics, read: Read) -> None:
    metrics.store().level(7, 123_456)
    assert read("carousel_store_sessions") == 7
    assert read("carousel_store_bytes") == 123_456
