"""The connection to a Redis Cluster. Calls of all its servers run side by side."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError
from typing_extensions import override

from carousel_server.core.errors import CarouselError

from .faults import ShardFault, StoreError, unavailable
from .redis_away import Away
from .redis_errors import explained, is_missing, refusal, says_not_primary
from .redis_link import Link
from .redis_node import Answers, Call, connection_options
from .redis_target import CLUSTER_SHARDS, Address, Target
from .redis_topology import Topology, ownerless

log = logging.getLogger(__name__)

_PATIENCE_S = 0.25
"""How long calls are tried again while their slots move. The other calls of the group wait for them."""
_PAUSE_S = 0.01
_MOST_THREADS = 32
_MOVING = "the session's part of the store moves to another server"
"""Until it has moved, calls with several keys may be refused (TRYAGAIN). Calls with one key are not."""


class ClusterLink(Link):
    """Connections to the primaries of a cluster.

    Calls go to each server as one group, all groups at the same time. A server that does not answer is
    *away*: its calls fail at once, until it answers again or the cluster has another owner of its slots.
    So a fault of one server holds up the calls of others once, for at most `timeout_s`.

    Args:
        target: nodes of the cluster. The others are found through them.
        timeout_s: for opening a connection, and for each answer.

    Raises:
        StoreError: no node can be reached, one is too old or no node of a cluster, or slots have no owner.
    """

    shards = CLUSTER_SHARDS

    def __init__(self, target: Target, timeout_s: float) -> None:
        self.place = target.shown
        self._topology = Topology(target, connection_options(timeout_s))
        self._away = Away(target, self._topology)
        self._pool = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="store-node")
        try:
            self._check()
        except RedisError as error:
            self.close()
            raise explained(self.place, error) from None
        except StoreError:
            self.close()
            raise

    def _check(self) -> None:
        """Checks all primaries, and loads our functions into them."""
        self._topology.begin()
        slots = self._topology.slots
        if not slots.is_whole:
            raise ownerless(self.place)
        for address in slots.primaries:
            node = self._topology.node(address)
            node.check("cluster")
            node.load()
            node.warn_of_eviction()

    @override
    def call_all(self, calls: Sequence[Call]) -> Answers:
        answers = self.call_each(calls)
        for answer in answers:
            if isinstance(answer, CarouselError):
                raise answer
        return answers

    @override
    def call_each(self, calls: Sequence[Call]) -> Answers:
        answers: Answers = [None] * len(calls)
        todo: Sequence[int] = range(len(calls))
        until_s, pause_s = time.monotonic() + _PATIENCE_S, _PAUSE_S
        while todo:
            todo = self._turn(calls, todo, answers)
            if todo and time.monotonic() > until_s:
                for place in todo:
                    self._give_up(calls[place], answers[place])
                    answers[place] = _caused(self._fault(), answers[place])
                break
            if todo:
                time.sleep(pause_s)
                pause_s *= 2
        return answers

    def _turn(self, calls: Sequence[Call], todo: Iterable[int], answers: Answers) -> Sequence[int]:
        """Sends calls to where their slots are. Returns those that should be sent again.

        Their answers are the errors why.
        """
        groups: dict[Address, list[int]] = {}
        for place in todo:
            owner = self._topology.slots.owner(_slot(calls[place]))
            if owner is None:
                answers[place] = ClusterDownError("CLUSTERDOWN the slot has no owner")
                groups.setdefault(("", 0), []).append(place)
            elif owner in self._away:
                answers[place] = self._fault()
            else:
                groups.setdefault(owner, []).append(place)
        again = list(groups.pop(("", 0), []))
        sent = {address: [calls[place] for place in places] for address, places in groups.items()}
        for address, got in self._send_all(sent):
            places = groups[address]
            if isinstance(got, RedisError):
                again += self._lost(address, got, places, answers)
                continue
            for place, answer in zip(places, got, strict=True):
                answers[place] = self._followed(address, calls[place], answer)
                if isinstance(answers[place], RedisError):
                    again.append(place)
        if any(type(answers[place]) is not MovedError for place in again):
            self._refresh()
        return again

    def _send_all(
        self, groups: dict[Address, list[Call]]
    ) -> Iterable[tuple[Address, Answers | RedisError]]:
        if len(groups) <= 1:
            return [(address, self._send(address, calls)) for address, calls in groups.items()]
        return zip(groups, self._pool.map(self._send, groups, groups.values()), strict=True)

    def _send(self, address: Address, calls: Sequence[Call]) -> Answers | RedisError:
        """The answers of one server, or why there are none."""
        node = self._topology.node(address)
        try:
            answers = node.send(calls)
            lacking = [place for place, answer in enumerate(answers) if is_missing(answer)]
            if lacking:  # a new server, or one that was emptied
                node.load()
                for place, answer in zip(
                    lacking, node.send([calls[place] for place in lacking]), strict=True
                ):
                    answers[place] = answer
        except RedisError as error:
            return error
        return answers

    def _lost(
        self, address: Address, error: RedisError, places: Sequence[int], answers: Answers
    ) -> Sequence[int]:
        """A server gave no answers. Returns the calls that should be sent again."""
        for place in places:
            answers[place] = error
        if isinstance(error, RedisTimeoutError):
            self._away.add(address)
            for place in places:
                answers[place] = _caused(self._fault(), error)
            return ()
        return places

    def _followed(self, address: Address, call: Call, answer: Any) -> Any:
        """The answer, or its CarouselError, or an error that may pass."""
        kind = type(answer)
        if kind is MovedError:
            self._topology.moved(answer.slot_id, (answer.host, answer.port))
            return answer
        if kind is TryAgainError:
            return _caused(ShardFault(_MOVING), answer)
        if kind is AskError:
            return self._asked((answer.host, answer.port), call)
        if says_not_primary(answer):
            self._topology.node(address).drop()
            return answer
        if isinstance(answer, Exception):
            return _caused(refusal(answer), answer)
        return answer

    def _asked(self, address: Address, call: Call) -> Any:
        """The answer of the server to which the call's keys move just now."""
        node = self._topology.node(address)
        try:
            answer = node.send([call], asking=True)[0]
            if is_missing(answer):
                node.load()
                answer = node.send([call], asking=True)[0]
        except RedisError as error:
            return error
        if type(answer) is TryAgainError:
            return _caused(ShardFault(_MOVING), answer)
        if isinstance(answer, Exception) and not says_not_primary(answer):
            return _caused(refusal(answer), answer)
        return answer

    def _give_up(self, call: Call, error: Any) -> None:
        """A call's server accepts nothing for too long. Others then fail at once."""
        owner = self._topology.slots.owner(_slot(call))
        if owner is not None and says_not_primary(error) not in ("ASK", "MOVED"):
            self._away.add(owner)

    def _fault(self) -> CarouselError:
        """The error for a call that got no answer, by whether any server answers."""
        if all(one in self._away for one in self._topology.slots.primaries):
            return unavailable()
        return ShardFault()

    def _refresh(self) -> None:
        try:
            self._topology.refresh(avoid=self._away.addresses)
        except RedisError as error:
            log.debug("no node of %s tells the slots: %s", self.place, error)

    @override
    def keys_like(self, pattern: str) -> Iterator[bytes]:
        for address in self._topology.slots.primaries:
            yield from self._topology.node(address).keys_like(pattern)

    @override
    def is_fsynced(self) -> bool:
        primaries = self._topology.slots.primaries
        return all(self._topology.node(address).is_fsynced() for address in primaries)

    @override
    def used_bytes(self) -> int:
        try:
            used = [self._topology.node(one).used_bytes() for one in self._topology.slots.primaries]
        except RedisError as error:
            raise unavailable() from error
        return -1 if -1 in used else sum(used)

    @override
    def close(self) -> None:
        self._away.close()
        self._pool.shutdown(wait=False)
        self._topology.close()


def _slot(call: Call) -> int:
    return key_slot(call[1][0].encode())


def _caused(error: CarouselError, cause: Exception) -> CarouselError:
    error.__cause__ = cause
    return error
