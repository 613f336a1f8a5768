"""The costs of the store are measured on a real Redis, each operation as the server calls it."""

from __future__ import annotations

import argparse
import shutil
from contextlib import ExitStack

import pytest
from bench import store_costs


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server on this machine")
def test_every_operation_costs_something(tmp_path, monkeypatch):
    monkeypatch.setattr(store_costs, "SIZES", (1 << 10,))
    monkeypatch.setattr(store_costs, "_MOST_SESSIONS", 128)
    with ExitStack() as stack:
        options = argparse.Namespace(seconds=0.05)
        everysec, always = store_costs.workloads(options, "cpu", tmp_path, stack, None)
        assert (everysec.name, always.name) == ("redis, everysec: 1 KiB", "redis, always: 1 KiB")
        found = everysec.measure()
        assert everysec.measure().keys() == found.keys(), "a second round begins as the first"
    assert all(value >= 0 for value in found.values())
    assert found["received_bytes_per_commit"] > 1 << 10
    assert found["redis_bytes_per_session"] > 1 << 10
    assert found["commits_per_s"] == pytest.approx(1e6 / found["commit_us"])


def test_it_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with ExitStack() as stack:
        options = argparse.Namespace(seconds=0.05)
        assert store_costs.workloads(options, "cpu", tmp_path, stack, None) == []
    assert "SKIPPED" in capsys.readouterr().out
