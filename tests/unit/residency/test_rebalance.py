"""Rebalances: when they begin and end, and how many sessions may move to whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from carousel_protos.placement import placed_all
from carousel_server.core.context import NoStore
from carousel_server.core.errors import CarouselError
from carousel_server.core.moves import MoveAway, MovedAway, SetOwners
from carousel_server.core.ports import Command
from carousel_server.core.store import Announcement, Replica
from carousel_server.residency.rebalance import AGAIN_S, SETTLE_S, Rebalance
from tests.support.fake_engine import FakeEngine

HERE = "r0:1"


class Engine(FakeEngine):
    """Has sessions by their ids, and answers as the real one does."""

    def __init__(self, ids: Sequence[str], here: str = HERE) -> None:
        super().__init__()
        self.ids, self.here = list(ids), here
        self.addresses: tuple[str, ...] = ()
        self.owners: list[tuple[str, ...]] = []
        self.moved: Counter[str] = Counter()
        self.waiting: list[MoveAway] = []
        self.slow = False
        # Sessions that cannot go now, and that an answer does not count.
        self.spared: set[str] = set()

    def submit(self, command: Command) -> None:
        if self.refusal is not None:
            raise self.refusal
        if isinstance(command, SetOwners):
            self.addresses = tuple(command.addresses)
            self.owners.append(self.addresses)
        elif isinstance(command, MoveAway):
            self.waiting.append(command)
            if not self.slow:
                self.answer()

    def answer(self) -> None:
        command = self.waiting.pop()
        moved, left, stay = [0] * len(self.addresses), 0, []
        for session_id, owner in zip(self.ids, placed_all(self.ids, self.addresses), strict=True):
            if self.addresses[owner] == self.here or session_id in self.spared:
                stay.append(session_id)
            elif sum(moved) < command.most and moved[owner] < command.budgets[owner]:
                moved[owner] += 1
                self.moved[self.addresses[owner]] += 1
            else:
                stay.append(session_id)
                left += 1
        self.ids = stay
        command.reply.set_result(MovedAway(moved, left))


class Store(NoStore):
    """Lists replicas."""

    def set(self, *addresses: str, draining: tuple[str, ...] = ()) -> None:
        self.replicas = [
            *(Replica(one, Announcement(one)) for one in addresses),
            *(Replica(one, Announcement(one, accepting=False)) for one in draining),
        ]


class Rig:
    """A rebalance that looks every 0.1 s."""

    def __init__(self, *engines: Engine, moves_per_s: float = 10.0) -> None:
        self.now = 1000.0
        self.store = Store()
        self.levels: list[tuple[int, int]] = []
        self.begun = 0
        self.rebalance = Rebalance(
            self.store, engines, self, moves_per_s=moves_per_s, clock=lambda: self.now
        )

    def replicas(self, accepting: int, others: int) -> None:
        self.levels.append((accepting, others))

    def rebalance_begun(self) -> None:
        self.begun += 1

    def pass_(self, seconds: float, own: str = HERE) -> None:
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            self.rebalance.look(own)


def addresses(count: int) -> list[str]:
    return [f"r{i}:1" for i in range(count)]


def test_sessions_move_when_the_replicas_have_settled(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    engine = Engine([f"s{i}" for i in range(60)])
    rig = Rig(engine)
    rig.store.set(HERE)
    rig.pass_(5)
    assert engine.owners == [(HERE,)]
    rig.store.set(*addresses(2))
    rig.pass_(SETTLE_S - 0.2)
    assert engine.moved.total() == 0
    rig.pass_(20)
    assert engine.moved == {"r1:1": 60 - len(engine.ids)}
    assert set(placed_all(engine.ids, addresses(2)).tolist()) == {0}
    assert rig.begun == 1
    assert f"{engine.moved.total()} sessions moved" in caplog.text


def test_a_change_meanwhile_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine([f"s{i}" for i in range(200)])
    rig = Rig(engine)
    rig.store.set(*addresses(2))
    rig.pass_(SETTLE_S + 2)
    moved = engine.moved.total()
    assert moved > 0
    rig.store.set(*addresses(3))
    rig.pass_(SETTLE_S - 0.2)
    assert engine.moved.total() <= moved + 1
    rig.store.set(HERE)
    rig.pass_(10)
    assert engine.moved.total() <= moved + 1, "it owns all again"
    assert rig.begun == 1


@pytest.mark.parametrize("count", [2, 5, 20])
def test_a_newcomer_gets_no_more_than_the_rate_from_all_together(count: int) -> None:
    """Each of n - 1 givers has its own bound for the one that comes."""
    names = addresses(count)
    givers = []
    for here in names[:-1]:
        engine = Engine([f"{here}-{i}" for i in range(400)], here)
        engine.ids = [
            one
            for one, at in zip(engine.ids, placed_all(engine.ids, names), strict=True)
            if names[at] == names[-1]
        ]
        rig = Rig(engine)
        givers.append((here, engine, rig))
    for here, _, rig in givers:
        rig.store.set(*names)
        rig.pass_(SETTLE_S, here)
    before = sum(engine.moved.total() for _, engine, _ in givers)
    for here, _, rig in givers:
        rig.pass_(5.0, here)
    moved = sum(engine.moved.total() for _, engine, _ in givers) - before
    assert moved <= 5.0 * 10 * 1.2 + count, "10 a second, and what was saved up"
    assert moved >= min(30, sum(len(engine.ids) for _, engine, _ in givers))


def test_many_givers_do_not_send_at_one_instant() -> None:
    """Each may send the newcomer one session in 6 s: together 10 a second, and not 60 at once."""
    names = addresses(61)
    givers = []
    for here in names[:-1]:
        ids = [f"{here}-{i}" for i in range(4000)]
        places = placed_all(ids, names)
        mine = [one for one, at in zip(ids, places, strict=True) if names[at] == names[-1]]
        engine = Engine(mine[:4], here)
        givers.append((here, engine, Rig(engine)))
        givers[-1][2].store.set(*names)
    counts = [0]
    for _ in range(round((SETTLE_S + 15) * 10)):
        for here, _, rig in givers:
            rig.pass_(0.1, here)
        counts.append(sum(engine.moved.total() for _, engine, _ in givers))
    assert counts[-1] >= 120
    assert max(np.diff(counts)) <= 10


def test_sessions_that_could_not_go_are_moved_later() -> None:
    engine = Engine([f"s{i}" for i in range(20)])
    engine.spared = set(engine.ids)
    rig = Rig(engine)
    rig.store.set(*addresses(2))
    rig.pass_(SETTLE_S + 2)
    assert engine.moved.total() == 0
    engine.spared.clear()
    rig.pass_(AGAIN_S + 5)
    assert engine.moved.total() > 0
    assert set(placed_all(engine.ids, addresses(2)).tolist()) == {0}
    assert rig.begun == 1, "the replicas have changed once"


def test_no_rate_moves_none() -> None:
    engine = Engine([f"s{i}" for i in range(20)])
    rig = Rig(engine, moves_per_s=0.0)
    rig.store.set(*addresses(3))
    rig.pass_(10)
    assert (engine.moved.total(), rig.begun) == (0, 0)
    assert engine.owners == [tuple(addresses(3))], "steps are counted all the same"


@pytest.mark.parametrize("own", ["", "another:1"])
def test_one_that_is_not_in_the_list_moves_none(own: str) -> None:
    engine = Engine([f"s{i}" for i in range(20)])
    rig = Rig(engine)
    rig.store.set(*addresses(3))
    rig.pass_(10, own)
    assert engine.moved.total() == 0


def test_those_that_drain_own_nothing() -> None:
    engine = Engine([f"s{i}" for i in range(20)])
    rig = Rig(engine)
    rig.store.set(HERE, draining=("r1:1",))
    rig.pass_(10)
    assert engine.owners == [(HERE,)]
    assert rig.levels[-1] == (1, 1)


def test_one_round_at_a_time_and_all_engines() -> None:
    first, second = Engine([f"a{i}" for i in range(40)]), Engine([f"b{i}" for i in range(40)])
    first.slow = True
    rig = Rig(first, second)
    rig.store.set(*addresses(2))
    rig.pass_(SETTLE_S + 5)
    assert (len(first.waiting), second.moved.total()) == (1, 0)
    first.slow = False
    first.answer()
    rig.pass_(20)
    assert first.moved.total() > 0
    assert second.moved.total() > 0
    assert set(placed_all(second.ids, addresses(2)).tolist()) == {0}


def test_an_engine_that_has_ended_holds_up_no_other() -> None:
    broken, engine = Engine(["a"]), Engine([f"b{i}" for i in range(10)])
    rig = Rig(broken, engine)
    rig.store.set(*addresses(2))
    rig.pass_(SETTLE_S - 0.5)
    broken.refusal = CarouselError("MODEL_UNHEALTHY", "the device is lost")
    rig.pass_(10)
    assert engine.moved.total() > 0
