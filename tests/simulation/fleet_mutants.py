"""Fleets with one rule of moves taken out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from carousel._core.answers import Answers
from carousel_server.engine.hand_overs import HandOvers
from carousel_server.engine.returners import Returners
from carousel_server.residency.asking import Asking
from carousel_server.residency.residency import Departure
from carousel_server.rows.ledger import Ledger

from .mutants import Mutant, Patches

Real = Callable[..., Any]


def _releases_early(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def advance(self: Any, now: float) -> None:
            with Patches() as inner:
                inner.put(Ledger, "is_clean", lambda _self, _row: True)
                real(self, now)

        return advance

    patches.wrap(HandOvers, "advance", make)


def _tells_early(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def leave(self: Any, row: int, one: Any, now: float) -> Departure:
            departure = real(self, row, one, now)
            departure.tell()
            return Departure(departure.held, lambda: None)

        return leave

    patches.wrap(HandOvers, "_leave", make)


def _forgets_inputs(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def moved(self: Any, link: Any, notice: Any) -> None:
            lane = link.lanes.get(notice.handle)
            if lane is not None:
                lane.log.inputs.clear()
            real(self, link, notice)

        return moved

    patches.wrap(Answers, "_on_moved", make)


def _stays(patches: Patches) -> None:
    def make(_real: Real) -> Real:
        return lambda _self, _link, _moved: None

    patches.wrap(Answers, "_on_moved", make)


def _takes_nothing_over(patches: Patches) -> None:
    def make(real: Real) -> Real:
        return lambda self, wanted, *, take_over: real(self, wanted, take_over=False)

    patches.wrap(Asking, "acquire", make)


FLEET_MUTANTS = [
    Mutant("A session is released before the store has all that has run", "R14", _releases_early),
    Mutant("Moved is told before the session is released", "R15", _tells_early),
    Mutant("A client that follows forgets inputs that are not durable", "R16", _forgets_inputs),
    Mutant("A client does not follow", "R16", _stays),
    Mutant(
        "A rebalance sends a session away again that has just come back",
        "R17",
        lambda p: p.put(Returners, "stays", lambda *_: False),
    ),
    Mutant("A session is not taken over from a holder out of reach", "R18", _takes_nothing_over),
]
