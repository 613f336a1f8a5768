"""The costs of the store are measured on a real Redis, each request as the server makes it."""

from __future__ import annotations

import argparse
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from bench.store_costs import __main__ as own_store
from bench.store_costs import figure
from bench.store_costs.counting import Cost
from support.redis import RedisServer
from support.redis_cluster import ClusterServers

SESSIONS, SNAPSHOT_BYTES = 32, 1000
PLANNED = {
    *("open_us", "activate_us", "release_us", "renew_us", "commit_us", "commit_alone_us"),
    *("commits_per_s", "redis_commit_us", "received_bytes_per_commit", "redis_bytes_per_session"),
}
"""What the committed results have, and `carousel plan` stands on."""


def workloads(folder: Path, stack: ExitStack) -> Any:
    runner: Any = None
    return figure.workloads(argparse.Namespace(seconds=0.05), "cpu", folder, stack, runner)


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server on this machine")
def test_every_operation_costs_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure, "SIZES", (1 << 10,))
    monkeypatch.setattr(figure, "_MOST_SESSIONS", 128)
    with ExitStack() as stack:
        everysec, always = workloads(tmp_path, stack)
        assert (everysec.name, always.name) == ("redis, everysec: 1 KiB", "redis, always: 1 KiB")
        found = everysec.measure()
        assert everysec.measure().keys() == found.keys(), "a second round begins as the first"
    assert found.keys() == PLANNED
    assert all(value >= 0 for value in found.values())
    assert found["received_bytes_per_commit"] > 1 << 10
    assert found["redis_bytes_per_session"] > 1 << 10
    assert found["commits_per_s"] == pytest.approx(1e6 / found["commit_us"])


def test_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with ExitStack() as stack:
        assert workloads(tmp_path, stack) == []
    assert "SKIPPED" in capsys.readouterr().out


# -- at a store of one's own


def costs(url: str) -> dict[str, Cost]:
    found = own_store.measure(url, sessions=SESSIONS, snapshot_bytes=SNAPSHOT_BYTES, rounds=5)
    return {one.what: one for one in found}


def test_one_server(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        found = costs(server.url)
        with server.client() as client:
            left = [key for key in client.scan_iter() if b":ended:" not in key]
    assert [one.rpartition(b":")[2] for one in left] == [b"layout"], "nothing else is left behind"
    commit = found[f"commit, {SESSIONS} in a group"]
    assert commit.calls == 2 / SESSIONS, "16 sessions in a call"
    assert SNAPSHOT_BYTES < commit.bytes_in < SNAPSHOT_BYTES + 400
    assert 0 < commit.bytes_out < 100
    assert found[f"release, {SESSIONS} in a group"].calls == 1 / SESSIONS
    assert SNAPSHOT_BYTES < found["activate"].bytes_out < SNAPSHOT_BYTES + 400
    for what in ("open", "activate", "remove", "renew", "replicas", "look into the mailbox"):
        assert found[what].calls == 1
    assert all(one.server_us >= 0 and one.wall_us > 0 for one in found.values())


def test_a_cluster(tmp_path: Path) -> None:
    with ClusterServers(tmp_path, replicas=0) as servers:
        found = costs(f"{servers.url}?shards=6")
    assert found["renew"].calls == found["sweep"].calls == 6, "one in each shard"
    for what in ("open", "replicas", "look into the mailbox"):
        assert found[what].calls == 1
    assert 6 / SESSIONS <= found[f"commit, {SESSIONS} in a group"].calls <= 8 / SESSIONS


def test_the_table_has_a_row_for_each_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with RedisServer(tmp_path) as server:
        arguments = ["x", server.url, "--sessions=4", "--rounds=2", "--snapshot-bytes=10"]
        monkeypatch.setattr("sys.argv", arguments)
        assert own_store.main() == 0
        shown = capsys.readouterr().out
    assert f"redis at 127.0.0.1:{server.port}" in shown
    for row in ("open", "commit, 4 in a group", "renew", "look into the mailbox", "remove"):
        assert row in shown
