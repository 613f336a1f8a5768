"""Hands sessions over to other replicas: stops their steps, waits for the store, releases them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import numpy as np

from carousel_server.core.context import Context
from carousel_server.core.errors import CarouselError
from carousel_server.core.futures import settle
from carousel_server.core.moves import Handed, HandOver, Hold, MoveAway, MovedAway, Released, Why
from carousel_server.core.ports import Command
from carousel_server.core.store import Release, SessionKey, ask_store
from carousel_server.core.types import Int64s, SessionRef
from carousel_server.residency.residency import Departure, Residency, moved_to
from carousel_server.residency.room import STAY_S
from carousel_server.rows.row_set import occurrence
from carousel_server.rows.rows import Rows

from .generation import Generations
from .returners import Returners

_STILL_S = 1.0
"""A rebalance spares sessions of single calls that were used more recently."""

Answer = Callable[[Handed], None]
"""Called once with what became of a session."""


@dataclass(slots=True)
class _Leaving:
    """A session that is to be handed over.

    Attributes:
        ref: the session.
        address: of its next holder; "" if unknown.
        why: the reason.
        take_over: also if a stream has it.
        since_s: when the command came.
        answer: gets the outcome.
    """

    ref: SessionRef
    address: str
    why: Why
    take_over: bool
    since_s: float
    answer: Answer


class HandOvers:
    """The one way of sessions to other replicas. Used on the engine's thread only.

    A session leaves when the store has all that has run, and nothing else of it is under way. One that
    takes longer than `hand_over_s` stays, and its steps go on.
    """

    def __init__(
        self,
        context: Context,
        rows: Rows,
        residency: Residency,
        generations: Generations,
        submit: Callable[[Command], None],
    ) -> None:
        """`submit` brings a command to the engine's thread."""
        self._metrics = context.metrics
        self._most_s = context.limits.hand_over_s
        self._clock = context.clock
        self._store = context.store
        self._rows = rows
        self._table = rows.table
        self._residency = residency
        self._generations = generations
        self._submit = submit
        self._leaving: dict[int, _Leaving] = {}
        self._returners = Returners()
        # The last row that a MoveAway has tried.
        self._last_row = -1

    def __len__(self) -> int:
        """Number of sessions that are about to leave."""
        return len(self._leaving)

    # -- commands

    def hand_over(self, command: HandOver, now: float) -> None:
        """Hands a session over to the replica that asked for it."""
        one = _Leaving(
            command.ref, command.address, Why.ASKED, command.take_over, now,
            partial(settle, command.reply),
        )  # fmt: skip
        self._begin(one)

    def move_away(self, command: MoveAway, now: float) -> None:
        """Hands over some of the sessions that another replica owns."""
        addresses = self._rows.placing.addresses
        movable = self._from_last(self._movable(command.why, now))
        owners = self._table.owner[movable]
        if len(command.budgets):
            fits = occurrence(owners) < np.asarray(command.budgets)[owners]
            chosen = movable[fits][: command.most]
        else:
            chosen = movable[: command.most]
        self._last_row = int(chosen[-1]) if len(chosen) else self._last_row
        group = _Group(command.reply, [0] * len(addresses), len(chosen), len(movable))
        for row, owner in zip(chosen.tolist(), self._table.owner[chosen].tolist(), strict=True):
            answer = partial(group.answered, owner)
            ref, address = self._rows.ref(row), addresses[owner]
            self._begin(_Leaving(ref, address, command.why, False, now, answer))
        group.settle_if_done()

    @staticmethod
    def released(command: Released, _now: float) -> None:
        """The store has released sessions."""
        command.tell()

    def stay(self, key: SessionKey, now: float) -> None:
        """No rebalance sends this session away soon, since its client could not reach another replica."""
        self._returners.note(key, now)

    # -- every tick

    def advance(self, now: float) -> None:
        """Lets the sessions leave that the store has all of. Those that cannot leave go on."""
        gone: list[tuple[_Leaving, Departure]] = []
        waiting: list[int] = []
        for row, one in list(self._leaving.items()):
            if (outcome := self._why_stays(row, one, now)) is not None:
                self._stay_here(row, one, outcome)
            elif self._is_busy(row, one, now):
                self._rows.go_on(row)  # a call may have come while the store was waited for
            else:
                self._stop(row, one)
                if self._rows.ledger.is_clean(row):
                    gone.append((one, self._leave(row, one, now)))
                else:
                    waiting.append(row)
        if waiting:
            self._rows.ledger.hurry(np.asarray(waiting))
        if gone:
            release = ask_store(self._store, Release([departure.held for _, departure in gone]))
            release.add_done_callback(lambda _: self._tell_later(gone))

    def fail_all(self) -> None:
        """The engine ends: those who wait are told that nothing was handed over."""
        leaving, self._leaving = self._leaving, {}
        for one in leaving.values():
            one.answer(Handed.FAILED)

    # -- one session

    def _begin(self, one: _Leaving) -> None:
        row = one.ref.row
        if not self._rows.is_live(one.ref):
            one.answer(Handed.GONE)
        elif (under_way := self._leaving.get(row)) is not None:
            under_way.take_over |= one.take_over
            one.answer(Handed.GONE)
        elif not self._may_leave(row, one):
            one.answer(Handed.KEPT)
        else:
            self._leaving[row] = one

    def _may_leave(self, row: int, one: _Leaving) -> bool:
        """False if a client uses the session in a way that `why` must not disturb."""
        hold, asked = self._table.hold[row], one.why is Why.ASKED
        if one.take_over or not self._table.tracked[row]:
            return bool(self._table.tracked[row])
        if self._table.generating[row] and one.why is not Why.DRAIN:
            return False
        return bool(hold != Hold.STREAM and not (hold == Hold.FOLLOWER and asked))

    def _why_stays(self, row: int, one: _Leaving, now: float) -> Handed | None:
        """Why a session does not leave any more; None if it may."""
        if not self._rows.is_live(one.ref):
            return Handed.GONE
        if not self._may_leave(row, one):
            return Handed.KEPT
        if now - one.since_s >= self._most_s:
            return Handed.FAILED if self._table.stopped[row] else Handed.KEPT
        return None

    def _is_busy(self, row: int, one: _Leaving, now: float) -> bool:
        """True while a call runs in the session, or is about to.

        A session that has just come was fetched for someone. It does not leave before that one has bound it.
        """
        table = self._table
        hold = table.hold[row]
        if hold == Hold.CALLS:
            return bool(table.pending[row] > 0 and not table.generating[row])
        new = table.applied[row] == table.begun_applied[row] and now - table.begun_s[row] < STAY_S
        return bool(hold == Hold.NONE and new and one.why is Why.ASKED)

    def _stop(self, row: int, one: _Leaving) -> None:
        """Runs no more of the session. Its generation goes on elsewhere, if it is asked for again."""
        if self._table.generating[row]:
            self._generations.stop(row, moved_to(self._table.ids[row], one.address))
        self._rows.stop(row)

    def _stay_here(self, row: int, one: _Leaving, outcome: Handed) -> None:
        del self._leaving[row]
        if outcome is not Handed.GONE:
            self._rows.go_on(row)
        one.answer(outcome)

    def _leave(self, row: int, one: _Leaving, now: float) -> Departure:
        del self._leaving[row]
        departure = self._residency.hand_over(row, one.address, now)
        if one.why is Why.REBALANCE:
            self._returners.note(departure.held[0], now)
        return departure

    # -- released

    def _tell_later(self, gone: Sequence[tuple[_Leaving, Departure]]) -> None:
        """Notifies on the engine's thread. Runs on the store's.

        Without the store's answer too: it releases the sessions when it is back.
        """
        tell = partial(self._tell, gone)
        try:
            self._submit(Released(tell))
        except CarouselError:
            tell()  # the engine has ended

    def _tell(self, gone: Sequence[tuple[_Leaving, Departure]]) -> None:
        for one, departure in gone:
            departure.tell()
            self._metrics.handed_over(one.why, self._clock() - one.since_s)
            one.answer(Handed.MOVED)

    # -- which

    def _movable(self, why: Why, now: float) -> Int64s:
        """Rows whose session another replica owns, and that may be sent there now; int64[n]."""
        table = self._table
        movable = table.tracked & table.elsewhere & (table.hold != Hold.STREAM)
        if why is Why.REBALANCE:
            still = (table.pending == 0) & (now - table.last_used_s >= _STILL_S)
            movable &= ~table.generating & (still | (table.hold != Hold.CALLS))
        return np.asarray(
            [row for row in np.flatnonzero(movable).tolist() if self._may_go(row, why, now)],
            np.int64,
        )

    def _from_last(self, rows: Int64s) -> Int64s:
        """The same rows, those behind the last one tried first. So one that cannot leave stops no other."""
        at = int(np.searchsorted(rows, self._last_row, side="right"))
        return np.roll(rows, -at)

    def _may_go(self, row: int, why: Why, now: float) -> bool:
        if row in self._leaving:
            return False
        if why is Why.REBALANCE:
            return not self._returners.stays(self._rows.key(row), now)
        return not self._table.generating[row] or self._generations.is_repeatable(row)


class _Group:
    """The sessions of one MoveAway, and what became of them."""

    def __init__(
        self, reply: Future[MovedAway], moved: list[int], unanswered: int, movable: int
    ) -> None:
        """`moved` counts by owner, `movable` is how many could have been chosen."""
        self._reply = reply
        self._moved = moved
        self._unanswered = unanswered
        self._movable = movable

    def answered(self, owner: int, handed: Handed) -> None:
        """What became of one of them."""
        self._moved[owner] += handed is Handed.MOVED
        self._unanswered -= 1
        self.settle_if_done()

    def settle_if_done(self) -> None:
        """Answers the command if nothing is under way."""
        if not self._unanswered:
            left = self._movable - sum(self._moved)
            settle(self._reply, MovedAway(tuple(self._moved), left))
