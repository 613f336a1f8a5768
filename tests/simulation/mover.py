"""When a replica of a fleet moves sessions away: what the process decides, turned by the world's events."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from carousel_server.core.moves import MoveAway, MovedAway, SetOwners, Why
from carousel_server.core.ports import ask
from carousel_server.engine import Engine
from carousel_server.residency.rebalance import Rebalance

if TYPE_CHECKING:
    from .server import Process

_TURN_S = 0.05
_DRAIN_TURN_S = 0.02
_DRAIN_S = 1.0
_REST_S = 60.0
_MOST = 2
"""Sessions that a drain hands over at a time."""

_HASTE, _MOVES_PER_S = 10.0, 4.0
"""Rebalances see a clock that is so much faster, since a schedule is short, and move so many by it."""


class Mover:
    """Turns the real `Rebalance` of a process, and hands over its sessions when it drains."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._draining = False
        world = process.world
        self._rebalance = Rebalance(
            process.store,
            [process.engine],
            _Quiet(),
            moves_per_s=_MOVES_PER_S,
            clock=lambda: world.now_s * _HASTE,
        )
        self._later(_TURN_S, self._turn)

    def drain(self, then: Callable[[], None]) -> None:
        """Hands over all that can be, and then does the rest."""
        self._draining = True
        self._process.store.announce(accepting=False, sessions=0)
        self._drain(self._process.world.now_s + _DRAIN_S, then)

    def _turn(self) -> None:
        if not self._draining:
            self._rebalance.look(self._process.address)
            self._later(_TURN_S, self._turn)

    def _drain(self, deadline_s: float, then: Callable[[], None]) -> None:
        """Names those that stay as owners, and sends a few sessions to them."""
        own = self._process.address
        replicas = self._process.store.replicas
        owners = sorted({one.said.address for one in replicas if one.said.accepting} - {own})
        ask(self._process.engine, SetOwners(owners, ""))
        reply = ask(self._process.engine, MoveAway(Why.DRAIN, _MOST))
        self._later(_DRAIN_TURN_S, self._drained, reply, deadline_s, then)

    def _drained(
        self, reply: Future[MovedAway], deadline_s: float, then: Callable[[], None]
    ) -> None:
        over = self._process.world.now_s > deadline_s
        if not over and not reply.done():
            self._later(_DRAIN_TURN_S, self._drained, reply, deadline_s, then)
        elif over or reply.exception() is not None or not reply.result().left:
            then()
        else:
            self._drain(deadline_s, then)

    def _later(self, delay_s: float, action: Callable[..., object], *args: object) -> None:
        self._process.world.call(delay_s, self._process.life, action, *args)


class _Quiet:
    """Metrics without readers."""

    def replicas(self, accepting: int, others: int) -> None:
        """Live replicas."""

    def rebalance_begun(self) -> None:
        """Sessions begin to move."""


def watch_rebalances(engine: Engine, fail: Callable[[str], None]) -> None:
    """Reports a session that a rebalance sends away again soon after it has come back (R17)."""
    leave, last_s = engine._hand_overs._leave, dict[str, float]()

    def leave_watched(row: int, one: Any, now: float) -> Any:
        if one.why is Why.REBALANCE:
            session_id = engine._rows.table.ids[row]
            if now - last_s.get(session_id, -_REST_S) < _REST_S:
                fail(f"R17: {session_id} was sent away twice within a minute")
            last_s[session_id] = now
        return leave(row, one, now)

    engine._hand_overs._leave = leave_watched  # type: ignore[method-assign]
