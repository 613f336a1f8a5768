"""Rebalances: when replicas come or go, sessions move to their owners, at a bounded rate."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from carousel_protos.placement import hashed, scores_at
from carousel_server.core.moves import MoveAway, MovedAway, SetOwners, Why
from carousel_server.core.ports import EnginePort, ask
from carousel_server.core.store import StorePort

log = logging.getLogger(__name__)

SETTLE_S = 2.0
"""How long the replicas must have been the same before sessions move. A restart then moves none twice."""

AGAIN_S = 15.0
"""How often sessions are moved that could not go before: they were busy, or had just come back."""

_BURST_S = 0.5
"""Moves that were not made are caught up on for so long."""


class RebalanceMetrics(Protocol):
    """What a rebalance reports."""

    def replicas(self, accepting: int, others: int) -> None:
        """Level: live replicas, those that accept sessions and those that do not."""

    def rebalance_begun(self) -> None:
        """Sessions begin to move, because replicas have come or gone."""


class _Round(NamedTuple):
    """A MoveAway that one engine runs."""

    engine: EnginePort
    reply: Future[MovedAway]


class Rebalance:
    """Compares the replicas with those before, and sends sessions to their owners. On one thread.

    All givers together send a replica at most `moves_per_s` sessions a second: of n replicas, each sends
    1 / (n - 1) of that. Sessions whose client came back from their owner are spared; see `Returners`.
    """

    def __init__(
        self,
        store: StorePort,
        engines: Sequence[EnginePort],
        metrics: RebalanceMetrics,
        *,
        moves_per_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`moves_per_s`: 0 moves none."""
        self._store = store
        self._engines = engines
        self._metrics = metrics
        self._moves_per_s = moves_per_s
        self._clock = clock
        # Addresses of the replicas that accept sessions.
        self._addresses: tuple[str, ...] = ()
        self._last_s = clock()
        # When sessions move next; infinity if none may.
        self._due_s = math.inf
        # The replicas have changed, and no session has moved since.
        self._is_new = False
        self._began_s: float | None = None
        self._moved = 0
        # Moves that may be made now: in all, and to each address.
        self._most = 0.0
        self._budgets: list[float] = []
        # Engines that may have sessions to move, and the round that runs.
        self._left: list[EnginePort] = []
        self._round: _Round | None = None

    def look(self, own: str) -> None:
        """Looks at the replicas, and sends the next sessions. To be called several times a second.

        `own` is this replica's address; "" if it has none yet.
        """
        now = self._clock()
        replicas = self._store.replicas
        accepting = sorted({one.said.address for one in replicas if one.said.accepting} - {""})
        self._metrics.replicas(len(accepting), len(replicas) - len(accepting))
        self._observe(tuple(accepting), own, now)
        self._earn(own, now)
        if self._round is not None and self._round.reply.done():
            self._count(self._round)
        if self._round is None and now >= self._due_s:
            self._go_on(own, now)

    def _observe(self, accepting: tuple[str, ...], own: str, now: float) -> None:
        """Tells the engines of owners that are others than before."""
        if accepting == self._addresses:
            return
        self._addresses = accepting
        self._budgets = [0.0] * len(accepting)
        for engine in self._engines:
            ask(engine, SetOwners(accepting, own))
        self._end("the replicas have changed again")
        self._is_new = self._moves_per_s > 0 and own in accepting and len(accepting) > 1
        self._due_s = now + SETTLE_S if self._is_new else math.inf
        self._left = list(self._engines)

    def _earn(self, own: str, now: float) -> None:
        """Lets the budgets grow with the time."""
        passed_s, self._last_s = now - self._last_s, now
        rate = self._moves_per_s
        each = rate / max(len(self._addresses) - 1, 1)
        self._most = min(self._most + passed_s * rate, max(rate * _BURST_S, 1.0))
        most_each = max(each * _BURST_S, 1.0)
        self._budgets = [
            0.0 if address == own else min(budget + passed_s * each, most_each)
            for address, budget in zip(self._addresses, self._budgets, strict=True)
        ]

    def _go_on(self, own: str, now: float) -> None:
        """Starts a round, if there is something to do."""
        if self._is_new:
            self._is_new, self._began_s = False, now
            self._budgets = _first_budgets(own, self._addresses)
            self._metrics.rebalance_begun()
            names = ", ".join(self._addresses)
            log.info(
                "rebalance: the replicas are %s; up to %g sessions move each second",
                names,
                self._moves_per_s,
            )
        if not self._left:
            self._end("done")
            self._due_s, self._left = now + AGAIN_S, list(self._engines)
            return
        budgets = [int(budget) for budget in self._budgets]
        if self._most >= 1 and any(budgets):
            command = MoveAway(Why.REBALANCE, int(self._most), budgets)
            ask(self._left[0], command)
            self._round = _Round(self._left[0], command.reply)

    def _count(self, ended: _Round) -> None:
        """Subtracts what has moved. An engine without more, or that does not answer, is done."""
        self._round = None
        moved, left = MovedAway((), 0) if ended.reply.exception() else ended.reply.result()
        self._moved += sum(moved)
        self._most -= sum(moved)
        if len(moved) == len(self._budgets):
            self._budgets = [b - count for b, count in zip(self._budgets, moved, strict=True)]
        if self._left and self._left[0] is ended.engine and not left:
            del self._left[0]

    def _end(self, how: str) -> None:
        if self._began_s is not None:
            seconds = self._clock() - self._began_s
            log.info("rebalance: %d sessions moved in %.1f s; %s", self._moved, seconds, how)
        self._began_s, self._moved = None, 0


def _first_budgets(own: str, addresses: Sequence[str]) -> list[float]:
    """Less than one move to each. Every giver has others, so that they do not all send at one instant."""
    givers = hashed([own])
    parts = (float(scores_at(givers, address)[0]) / 2.0**64 for address in addresses)
    return [0.0 if address == own else part for address, part in zip(addresses, parts, strict=True)]
