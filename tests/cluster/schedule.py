"""Which fault comes when, and to whom: all of it from one seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What a schedule knows of a fault.

    Attributes:
        name: of the fault.
        target: what it happens to: "replica", "shard", "client" or "all".
        shortest_s, longest_s: how long it lasts.
    """

    name: str
    target: str
    shortest_s: float = 0.0
    longest_s: float = 0.0


@dataclass(frozen=True)
class Event:
    """One fault. `target` is the number of a replica, shard or process of clients."""

    number: int
    name: str
    target: int
    hold_s: float

    def __str__(self) -> str:
        return f"{self.number}: {self.name} (target {self.target}, {self.hold_s:.2f} s)"


def events(seed: int, kinds: Sequence[Kind], targets: Mapping[str, int]) -> Iterator[Event]:
    """Events without an end: round after round, each with every kind once, in another order.

    Args:
        seed: decides everything.
        kinds: of faults.
        targets: how many there are of each target.
    """
    rng = random.Random(seed)
    number = 0
    while True:
        for kind in rng.sample(kinds, len(kinds)):
            number += 1
            hold_s = rng.uniform(kind.shortest_s, kind.longest_s)
            yield Event(number, kind.name, rng.randrange(targets[kind.target]), hold_s)
