"""A drain hands sessions over to the replicas that accept them as of then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.support.fake_engine import FakeEngine

from carousel_server.core.errors import CarouselError
from carousel_server.core.moves import MoveAway, MovedAway, SetOwners
from carousel_server.core.ports import Command
from carousel_server.core.store import Announcement, Replica
from carousel_server.process.handing_over import hand_over_all, others


class Engine(FakeEngine):
    """Has so many sessions, and notes where they go."""

    def __init__(self, sessions: int, stuck: int = 0) -> None:
        super().__init__()
        self.sessions, self.stuck = sessions, stuck
        self.owners: list[list[str]] = []
        self.on_group: Callable[[], object] = int

    def submit(self, command: Command) -> None:
        if self.refusal is not None:
            raise self.refusal
        if isinstance(command, SetOwners):
            assert command.own == "", "one that drains owns nothing"
            self.owners.append(list(command.addresses))
        elif isinstance(command, MoveAway):
            self.on_group()
            count = min(self.sessions, command.most) if self.owners[-1] else 0
            self.sessions -= count
            left = self.sessions + self.stuck if self.owners[-1] else 0
            command.reply.set_result(MovedAway([count], left))


def test_others_are_those_that_accept() -> None:
    replicas = [
        Replica("here", Announcement("here:1")),
        Replica("there", Announcement("there:1")),
        Replica("stops", Announcement("stops:1", accepting=False)),
        Replica("early", Announcement("")),
    ]
    assert others(replicas, "here:1") == ["there:1"]


def test_all_engines_are_emptied(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    engines = [Engine(200), Engine(3), Engine(0)]
    asyncio.run(hand_over_all(engines, lambda: ["there:1"]))
    assert [engine.sessions for engine in engines] == [0, 0, 0]
    assert all(engine.owners == [["there:1"]] for engine in engines)
    assert "203 sessions were handed over" in caplog.text


def test_no_session_goes_to_one_that_has_begun_to_drain_too() -> None:
    """As where several replicas are taken away at once."""
    engine, accepting = Engine(200), ["there:1", "yonder:1"]
    engine.on_group = lambda: accepting.remove("there:1") if "there:1" in accepting else None
    asyncio.run(hand_over_all([engine], lambda: accepting))
    assert engine.owners == [["there:1", "yonder:1"], ["yonder:1"]]
    assert engine.sessions == 0


def test_a_drain_that_finds_itself_alone_ends() -> None:
    engine, accepting = Engine(200), ["there:1"]
    engine.on_group = accepting.clear
    asyncio.run(asyncio.wait_for(hand_over_all([engine], lambda: accepting), 30))
    assert engine.owners[-1] == []
    assert engine.sessions > 0


def test_an_engine_that_fails_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    broken, engine = Engine(5), Engine(5)
    broken.refusal = CarouselError("MODEL_UNHEALTHY", "the device is lost")
    asyncio.run(hand_over_all([broken, engine], lambda: ["there:1"]))
    assert (broken.sessions, engine.sessions) == (5, 0)
    assert "hands over no more sessions" in caplog.text


def test_sessions_that_cannot_leave_are_tried_until_the_drain_is_over() -> None:
    engine = Engine(5, stuck=1)

    async def drain() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await hand_over_all([engine], lambda: ["there:1"])

    asyncio.run(drain())
    assert engine.sessions == 0
