"""Hands the sessions of a server that drains over to other replicas, in bounded groups."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from carousel_server.core.errors import CarouselError
from carousel_server.core.moves import MoveAway, SetOwners, Why
from carousel_server.core.ports import EnginePort, ask
from carousel_server.core.store import Replica

log = logging.getLogger(__name__)

_GROUP = 64
"""Sessions that leave an engine together. They share a commit, and wait for it together."""

_POLL_S = 0.02


def others(replicas: Sequence[Replica], own: str) -> list[str]:
    """Addresses of the replicas that can take the sessions of this one, in order."""
    accepting = {one.said.address for one in replicas if one.said.accepting}
    return sorted(accepting - {"", own})


async def hand_over_all(
    engines: Sequence[EnginePort], accepting: Callable[[], Sequence[str]]
) -> None:
    """Hands over all sessions that can move, each to its owner among the addresses that `accepting` returns.

    It is called before each group, since other replicas may begin to drain too. Sessions without a store
    stay, and those of streams that do not follow.
    """
    began_s = time.monotonic()
    moved = sum(await asyncio.gather(*(_empty(engine, accepting) for engine in engines)))
    log.info(
        "drain: %d sessions were handed over to other replicas in %.1f s",
        moved, time.monotonic() - began_s,
    )  # fmt: skip


async def _empty(engine: EnginePort, accepting: Callable[[], Sequence[str]]) -> int:
    """Moves the sessions of one engine; returns how many."""
    count, owners = 0, [""]
    try:
        while engine.healthy:
            if (now := list(accepting())) != owners:
                owners = now
                ask(engine, SetOwners(owners, ""))
            command = MoveAway(Why.DRAIN, _GROUP)
            ask(engine, command)
            done = await asyncio.wrap_future(command.reply)
            count += sum(done.moved)
            if not done.left:
                break
            if not any(done.moved):  # calls run in them, or the store does not answer
                await asyncio.sleep(_POLL_S)
    except CarouselError as error:
        log.warning("drain: model %s hands over no more sessions: %s", engine.model.name, error)
    return count
