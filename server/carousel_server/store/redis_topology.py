"""Which server of a cluster has which slots."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.exceptions import RedisError, ResponseError

from .faults import StoreError
from .redis_node import Node
from .redis_target import Address, Target

SLOTS = 16_384


@dataclass(frozen=True, slots=True)
class SlotMap:
    """The owners of the slots. Immutable.

    Attributes:
        starts, owners: ranges of slots in order: the first slot of each, and its primary. None has no owner.
        known: all servers, also replicas.
    """

    starts: Sequence[int] = (0,)
    owners: Sequence[Address | None] = (None,)
    known: frozenset[Address] = frozenset()
    moved: dict[int, Address] = field(default_factory=dict)

    def owner(self, slot: int) -> Address | None:
        """The primary of a slot."""
        found = self.moved.get(slot)
        return found or self.owners[bisect_right(self.starts, slot) - 1]

    @property
    def primaries(self) -> list[Address]:
        """All servers that have slots, sorted."""
        return sorted({one for one in (*self.owners, *self.moved.values()) if one is not None})

    @property
    def is_whole(self) -> bool:
        """True if every slot has an owner."""
        return None not in self.owners


class Topology:
    """The servers of a cluster. Several threads may use it.

    Args:
        target: where to begin, and the options of connections.
        options: more options of connections.
    """

    def __init__(self, target: Target, options: dict[str, Any]) -> None:
        self._begin = target.places
        self._options = {**options, **target.options}
        self._nodes: dict[Address, Node] = {}
        self.slots = SlotMap()

    def node(self, address: Address) -> Node:
        """The server at an address."""
        found = self._nodes.get(address)
        if found is None:
            host, port = address
            pool = redis.ConnectionPool(host=host, port=port, **self._options)
            found = Node(redis.Redis(connection_pool=pool), f"redis at {host}:{port}")
            found = self._nodes.setdefault(address, found)
        return found

    def refresh(self, avoid: Iterable[Address] = ()) -> None:
        """Asks one server which slots are where, those of `avoid` last.

        Raises:
            RedisError: none answers. It is the error of the last one.
        """
        late = set(avoid)
        known = sorted({*self.slots.known, *self._begin}, key=lambda one: (one in late, one))
        last: RedisError | None = None
        for address in known:
            try:
                self.slots = read_slots(address, self.node(address).client)
            except RedisError as error:
                last = error
            else:
                self._forget()
                return
        assert last is not None, "a URL has an address"
        raise last

    def begin(self) -> None:
        """Asks for the slots at the start.

        Raises:
            StoreError: the first server is no node of a cluster.
            RedisError: none answers.
        """
        try:
            self.refresh()
        except ResponseError:
            self.node(self._begin[0]).check("cluster")
            raise

    def moved(self, slot: int, address: Address) -> None:
        """Notes what a server has answered (MOVED), until the next refresh."""
        self.slots.moved[slot] = address

    def close(self) -> None:
        """Closes all connections."""
        for node in list(self._nodes.values()):
            node.client.close()

    def _forget(self) -> None:
        """Closes the connections to servers that have left."""
        for address in set(self._nodes) - self.slots.known - set(self._begin):
            self._nodes.pop(address).client.close()


def ownerless(place: str) -> StoreError:
    """The error for a cluster that cannot keep every session."""
    return StoreError(
        f"the cluster of {place} has slots without an owner\n"
        "add the missing servers, or run redis-cli --cluster fix"
    )


def read_slots(address: Address, client: redis.Redis) -> SlotMap:
    """The slots as one server knows them.

    Raises:
        RedisError: it does not answer, or is no node of a cluster.
    """
    ranges: list[tuple[int, int, Address]] = []
    known: set[Address] = set()
    answer: Any = client.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
    for first, last, *servers in answer:
        places = [(_text(one[0]) or address[0], int(one[1])) for one in servers]
        known.update(places)
        ranges.append((int(first), int(last), places[0]))
    starts: list[int] = []
    owners: list[Address | None] = []
    next_slot = 0
    for first, last, owner in sorted(ranges):
        if first > next_slot:
            starts.append(next_slot)
            owners.append(None)
        starts.append(first)
        owners.append(owner)
        next_slot = last + 1
    if next_slot < SLOTS:
        starts.append(next_slot)
        owners.append(None)
    return SlotMap(starts, owners, frozenset(known))


def _text(host: Any) -> str:
    return host.decode() if isinstance(host, bytes) else str(host or "")
