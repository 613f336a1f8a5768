"""Streams of several tenants: each tenant has one message read in a turn of the loop."""

from __future__ import annotations

import asyncio

import pytest

from carousel_server.core.backlogged import Backlogged
from carousel_server.wire import turns as module
from carousel_server.wire.turns import Turns


class Readers:
    """Streams that always have a message; `read` names the tenants in order."""

    def __init__(self, **streams: int) -> None:
        self.backlogged = Backlogged()
        self.turns = Turns(self.backlogged)
        self.read: list[str] = []
        for tenant, count in streams.items():
            for _ in range(count):
                self.turns.enter(tenant)

    async def stream(self, tenant: str, messages: int) -> None:
        for _ in range(messages):
            await self.turns.turn(tenant)
            self.read.append(tenant)
            await asyncio.sleep(0)


async def test_one_tenant_alone_never_waits() -> None:
    readers = Readers(only=16)
    for _ in range(100):
        turn = readers.turns.turn("only")
        try:
            turn.send(None)
        except StopIteration:
            continue
        raise AssertionError("it waits")


async def test_a_tenant_with_many_streams_gets_no_more_turns_than_one_with_few() -> None:
    readers = Readers(flood=16, steady=1)
    async with asyncio.TaskGroup() as group:
        for _ in range(16):
            group.create_task(readers.stream("flood", 10))
        group.create_task(readers.stream("steady", 10))
    assert readers.read.count("flood") == 160
    last = max(i for i, tenant in enumerate(readers.read) if tenant == "steady")
    assert readers.read[:last].count("flood") <= 12


async def test_streams_of_one_tenant_are_served_in_order() -> None:
    readers = Readers(flood=5, other=1)
    streams = [asyncio.create_task(readers.turns.turn("flood")) for _ in range(5)]
    served: list[int] = []
    for number, stream in enumerate(streams):
        stream.add_done_callback(lambda _, number=number: served.append(number))
    await asyncio.gather(*streams)
    assert served == [0, 1, 2, 3, 4]


async def test_a_stream_that_ends_as_it_waits_takes_nobodys_turn() -> None:
    readers = Readers(flood=3, other=1)
    first, gone, stays = (asyncio.create_task(readers.turns.turn("flood")) for _ in range(3))
    await first
    gone.cancel()
    await asyncio.wait_for(stays, 10)
    assert gone.cancelled()


async def test_those_who_wait_are_served_after_the_other_tenant_has_left() -> None:
    readers = Readers(flood=2, other=1)
    waiting = [asyncio.create_task(readers.turns.turn("flood")) for _ in range(3)]
    await asyncio.sleep(0)
    readers.turns.leave("other")
    assert readers.turns.needed  # a later stream must not pass those that wait
    await asyncio.wait_for(asyncio.gather(*waiting), 10)
    await asyncio.sleep(0)
    assert not readers.turns.needed
    assert not readers.turns._waiting
    assert not readers.turns._served


# -- backlogged tenants


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message of a backlogged tenant waits for ever."""
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 1e9)


@pytest.mark.usefixtures("patient")
async def test_a_backlogged_tenant_waits_and_the_others_do_not() -> None:
    readers = Readers(flood=2, steady=1)
    readers.backlogged.set("m", frozenset({"flood"}))
    waiting = [asyncio.create_task(readers.turns.turn("flood")) for _ in range(2)]
    for _ in range(50):
        await readers.turns.turn("steady")
        await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    readers.backlogged.set("m", frozenset())
    await asyncio.wait_for(asyncio.gather(*waiting), 10)


@pytest.mark.usefixtures("patient")
async def test_a_backlogged_tenant_waits_also_where_others_have_no_stream() -> None:
    """They may have calls."""
    readers = Readers(flood=1)
    assert not readers.turns.needed
    readers.backlogged.set("m", frozenset({"flood"}))
    waiting = asyncio.create_task(readers.turns.turn("flood"))
    await asyncio.sleep(0)
    readers.backlogged.set("m", frozenset())
    await asyncio.wait_for(waiting, 10)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not readers.turns.needed


async def test_a_backlogged_tenants_message_is_read_after_a_while() -> None:
    readers = Readers(flood=1, steady=1)
    readers.backlogged.set("m", frozenset({"flood"}))
    await asyncio.wait_for(readers.turns.turn("flood"), 10)
    assert not readers.turns._waiting


@pytest.mark.usefixtures("patient")
async def test_a_backlogged_stream_that_ends_leaves_nothing_behind() -> None:
    readers = Readers(flood=1, steady=1)
    readers.backlogged.set("m", frozenset({"flood"}))
    waiting = asyncio.create_task(readers.turns.turn("flood"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    readers.turns.leave("flood")
    readers.turns._next()
    assert not readers.turns.needed
    assert not readers.turns._waiting
