"""Hands the sessions of a server that drains over to other replicas, in bounded groups."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

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


async def hand_over_all(engines: Sequence[EnginePort], addresses: Sequence[str]) -> None:
    """Hands over all sessions that can move, each to its owner among `addresses`.

    Sessions without a store stay, and those of streams that do not follow.
    """
    began_s = time.monotonic()
    for engine in engines:
        ask(engine, SetOwners(addresses, ""))
    moved = sum(await asyncio.gather(*map(_empty, engines)))
    log.info(
        "drain: %d sessions were handed over to %d replicas in %.1f s",
        moved, len(addresses), time.monotonic() - began_s,
    )  # fmt: skip


async def _empty(engine: EnginePort) -> int:
    """Moves the sessions of one engine; returns how many."""
    count = 0
    try:
        while engine.healthy:
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
