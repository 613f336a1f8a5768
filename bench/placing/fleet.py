"""A fleet of replicas in continuous time: which session is where while replicas come, drain, and crash.

A model of the servers' own rules. A replica hands over sessions whose owner is another, at a bounded rate.
A draining one hands over all. The next holder takes them one after the other. Only sessions whose replica
changes are computed, so ten million sessions and a thousand restarts take seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .schemes import Owners

Ids = NDArray[np.int64]
Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast sessions move.

    Attributes:
        moves_per_s: sessions that one replica hands over in a rebalance, a second: the server's setting.
        shared: each target gets its share of that rate only, so that no replica gets more than
            moves_per_s from all others together.
        drains_per_s: sessions that a draining replica hands over a second.
        takes_per_s: sessions that one replica takes a second.
        lease_s: how long the sessions of a crashed replica wait.
    """

    moves_per_s: float
    shared: bool
    drains_per_s: float
    takes_per_s: float
    lease_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Hand-overs that lie ahead: the sessions, their next holders, and when each is given; by instant."""

    sessions: Ids
    targets: Owners
    at_s: Seconds


_NOTHING = Plan(np.empty(0, np.int64), np.empty(0, np.int16), np.empty(0))


class Fleet:
    """Replicas and sessions. A session's wish is the first accepting replica of its ranks.

    Args:
        ranks: int16[sessions, k], each session's best replicas, the best first.
        accepting: bool[replicas], who is there at the beginning. All sessions are at their owners.
        rates: how fast sessions move.
    """

    def __init__(
        self,
        ranks: NDArray[np.int16],
        accepting: NDArray[np.bool_],
        rates: Rates,
    ) -> None:
        replicas = len(accepting)
        self._chance = np.random.default_rng(1)
        self.now_s = 0.0
        self.ranks, self.rates = ranks, rates
        self.accepting = accepting.copy()
        self.where: Owners = self.owners(np.arange(len(ranks)), accepting)
        self.plan = _NOTHING
        # When a session waited at its next holder, for each move; in order of the moves.
        self.waits_s: list[Seconds] = []
        self._next_give_s: Seconds = np.zeros(replicas)
        self._taken_until_s: Seconds = np.zeros(replicas)
        # Sessions by their first choice: those of replica r are _of[_first[r]:_first[r + 1]].
        self._of = np.argsort(ranks[:, 0], kind="stable")
        self._first = np.searchsorted(ranks[self._of, 0], np.arange(replicas + 1))

    def owners(self, sessions: Ids, accepting: NDArray[np.bool_]) -> Owners:
        """Where sessions should be while those replicas accept; int16[n]."""
        ranks = self.ranks[sessions]
        there = accepting[ranks]
        best = there.argmax(axis=1)
        rows = np.arange(len(sessions))
        assert there[rows, best].all(), (
            "too many replicas are away for the ranks that were computed"
        )
        return np.asarray(ranks[rows, best])

    def chosen(self, replica: int) -> Ids:
        """Sessions whose first choice is this replica."""
        return self._of[self._first[replica] : self._first[replica + 1]]

    # -- what operators do

    def start(self, replica: int) -> None:
        """The replica accepts sessions from now on."""
        self.accepting[replica] = True
        self._replan((replica,))

    def drain(self, replica: int) -> float:
        """The replica hands all its sessions over. Returns when the last one is given, in seconds."""
        self.accepting[replica] = False
        self._next_give_s[replica] = self.now_s
        self._replan((replica,))
        mine = self.plan.at_s[self.where[self.plan.sessions] == replica]
        return float(mine.max(initial=self.now_s))

    def crash(self, replica: int) -> float:
        """The replica is gone. Returns when all its sessions are taken by others, in seconds."""
        self.accepting[replica] = False
        self._replan((replica,))
        lost = self.touched((replica,))
        lost = lost[self.where[lost] == replica]
        targets = self.owners(lost, self.accepting)
        self.where[lost] = targets
        free_s = self.now_s + self.rates.lease_s
        done_s = self._take(targets, np.full(len(lost), free_s))
        self._replan((replica,))
        return float(done_s.max(initial=self.now_s))

    def advance(self, until_s: float) -> None:
        """Lets time pass; moves that are due by then happen."""
        due = int(np.searchsorted(self.plan.at_s, until_s, side="right"))
        plan = self.plan
        given = Plan(plan.sessions[:due], plan.targets[:due], plan.at_s[:due])
        self.plan = Plan(plan.sessions[due:], plan.targets[due:], plan.at_s[due:])
        givers = self.where[given.sessions]
        np.maximum.at(self._next_give_s, givers, given.at_s + 1 / self._give_rates(givers))
        self.where[given.sessions] = given.targets
        done_s = self._take(given.targets, given.at_s)
        self.waits_s.append(done_s - given.at_s)
        self.now_s = max(self.now_s, until_s)

    def settled_s(self) -> float:
        """When the last planned move is given."""
        return float(self.plan.at_s.max(initial=self.now_s))

    def where_at(self, sessions: Ids, at_s: float) -> Owners:
        """Where these sessions are at an instant before the next event; int16[n]."""
        where = self.where[sessions]
        given = int(np.searchsorted(self.plan.at_s, at_s, side="right"))
        order = np.argsort(self.plan.sessions[:given])
        moved = self.plan.sessions[:given][order]
        at = np.searchsorted(moved, sessions)
        hit = np.flatnonzero(at < len(moved))
        hit = hit[moved[at[hit]] == sessions[hit]]
        where[hit] = self.plan.targets[:given][order][at[hit]]
        return where

    # -- plans

    def touched(self, replicas: Sequence[int]) -> Ids:
        """Sessions whose place may be another after a change of these replicas."""
        away = np.flatnonzero(~self.accepting).tolist()
        chosen = [self.chosen(one) for one in {*replicas, *away}]
        return np.unique(np.concatenate([self.plan.sessions, *chosen]))

    def _replan(self, replicas: Sequence[int]) -> None:
        """All sessions that are not at their owner are planned anew from now on."""
        sessions = self.touched(replicas)
        owners = self.owners(sessions, self.accepting)
        away = np.flatnonzero(owners != self.where[sessions])
        sessions, owners = sessions[away], owners[away]
        givers = self.where[sessions]
        at_s = self._given_s(givers, owners)
        order = np.argsort(at_s, kind="stable")
        self.plan = Plan(sessions[order], owners[order], at_s[order])

    def _given_s(self, givers: Owners, targets: Owners) -> Seconds:
        """When each of these sessions is handed over, within the rates."""
        ready_s = np.maximum(self._next_give_s[givers], self.now_s)
        if self.rates.shared:
            others = max(int(self.accepting.sum()) - 1, 1)
            between_s = np.where(self.accepting[givers], others / self.rates.moves_per_s, 0.0)
            pairs = givers.astype(np.int64) * len(self.accepting) + targets
            # Replicas draw when they begin. Else all would give their first session at once.
            each, pair = np.unique(pairs, return_inverse=True)
            ready_s += (_nth(pairs) + self._chance.random(len(each))[pair]) * between_s
        return _served(givers, ready_s, 1 / self._give_rates(givers))

    def _give_rates(self, givers: Owners) -> Seconds:
        rates = self.rates
        return np.asarray(np.where(self.accepting[givers], rates.moves_per_s, rates.drains_per_s))

    def _take(self, takers: Owners, at_s: Seconds) -> Seconds:
        """When each session runs at its next holder, which takes them one by one in order of arrival."""
        ready_s = np.maximum(at_s, self._taken_until_s[takers])
        takes_s = np.full(len(takers), 1 / self.rates.takes_per_s)
        done_s: Seconds = _served(takers, ready_s, takes_s) + takes_s
        np.maximum.at(self._taken_until_s, takers, done_s)
        return done_s


def _nth(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each element, how many of its group stand before it."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    nth = np.empty(len(groups), np.int64)
    nth[order] = np.arange(len(groups)) - np.searchsorted(ordered, ordered)
    return nth


def _served(servers: Owners, ready_s: Seconds, each_s: Seconds) -> Seconds:
    """When the service of each begins. A server serves one at a time, in the order of `ready_s`.

    The n-th of a server begins at the latest of (ready of the m-th + n - m services) over all m up to n.
    `each_s` is the time of one service, the same for all of one server.
    """
    order = np.lexsort((ready_s, servers))
    who = servers[order]
    behind_s = (np.arange(len(who)) - np.searchsorted(who, who)) * each_s[order]
    values = ready_s[order] - behind_s
    if len(
        values
    ):  # the running maximum of each server: later servers are lifted above earlier ones
        lift = who * (float(np.ptp(values)) + 1.0)
        values = np.maximum.accumulate(values + lift) - lift
    begins_s = np.empty(len(who))
    begins_s[order] = values + behind_s
    return begins_s
