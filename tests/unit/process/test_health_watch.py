"""When a server gives up: no model healthy, for a while."""

from __future__ import annotations

import logging

import pytest
from support.fake_engine import ECHO_TOKENS, FakeEngine

from carousel_server.process.health_watch import HealthWatch


@pytest.fixture
def engines():
    return FakeEngine(), FakeEngine(ECHO_TOKENS)


def test_one_healthy_model_keeps_the_server(engines):
    health_watch = HealthWatch(engines, 5.0)
    engines[0].healthy = False
    assert not any(health_watch.hopeless(now) for now in (0.0, 5.0, 1000.0))


def test_none_for_the_grace_ends_it(engines):
    health_watch = HealthWatch(engines, 5.0)
    assert not health_watch.hopeless(0.0)
    for engine in engines:
        engine.healthy = False
    assert not health_watch.hopeless(100.0)
    assert not health_watch.hopeless(104.9)
    assert health_watch.hopeless(105.0)


def test_a_model_that_was_only_slow_starts_the_grace_anew(engines):
    health_watch = HealthWatch(engines, 5.0)
    for engine in engines:
        engine.healthy = False
    assert not health_watch.hopeless(0.0)
    engines[0].healthy = True
    assert not health_watch.hopeless(4.0)
    engines[0].healthy = False
    assert not health_watch.hopeless(6.0)
    assert health_watch.hopeless(11.0)


def test_every_change_is_logged_once(engines, caplog):
    caplog.set_level(logging.INFO)
    health_watch = HealthWatch(engines, 5.0)
    for healthy in (True, False, False, True, True):
        engines[0].healthy = healthy
        health_watch.hopeless(0.0)
    assert [(r.levelname, r.message.split(":")[0]) for r in caplog.records] == [
        ("ERROR", "model echo is unhealthy"),
        ("INFO", "model echo is healthy again"),
    ]
