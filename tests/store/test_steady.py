"""The time of a store passes evenly, whatever the machine's clock does."""

from __future__ import annotations

import time

import pytest
from support.redis import RedisServer

from carousel_server.core.store import Holding
from carousel_server.store.redis import RedisStore
from carousel_server.store.steady import SteadyClock

from .media import ALICE, BOB, KEY, NEW

HOUR_S = 3600.0


class Machine:
    """A machine's two clocks."""

    def __init__(self) -> None:
        self.wall_s, self.up_s = 1e9, 50.0

    def wall(self) -> float:
        return self.wall_s

    def clock(self) -> float:
        return self.up_s


@pytest.mark.parametrize("step_s", [2 * HOUR_S, -2 * HOUR_S])
def test_a_step_of_the_machines_clock_is_not_seen(step_s: float) -> None:
    machine = Machine()
    steady = SteadyClock(wall=machine.wall, clock=machine.clock)
    assert steady() == 1e9
    machine.wall_s += step_s
    machine.up_s += 7.0
    assert steady() == 1e9 + 7.0


def test_it_can_be_set() -> None:
    machine = Machine()
    steady = SteadyClock(5.0, wall=machine.wall, clock=machine.clock)
    machine.up_s += 1.0
    assert steady() == 6.0
    steady.set(100.0)
    machine.up_s += 1.0
    assert steady() == 101.0


@pytest.mark.parametrize("shift_s", [HOUR_S, -HOUR_S])
def test_replicas_whose_clocks_differ_have_the_time_of_redis(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, shift_s: float
) -> None:
    alice = RedisStore(redis_server.url, ALICE, 30.0, prefix=f"shift{shift_s}")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + shift_s)
    bob = RedisStore(redis_server.url, BOB, 30.0, prefix=f"shift{shift_s}")
    assert bob.now_unix_s() == pytest.approx(alice.now_unix_s(), abs=60)
    bob.acquire(KEY, epoch_floor=0, new=NEW)
    bob.release([Holding(KEY, 1, bob.now_unix_s())])
    assert alice.sweep(alice.now_unix_s(), 10) == 0
    assert alice.acquire(KEY, epoch_floor=0, new=None).epoch == 2
    assert bob.renew()
    assert bob.now_unix_s() == pytest.approx(alice.now_unix_s(), abs=60)
    for store in (alice, bob):
        store.close()
