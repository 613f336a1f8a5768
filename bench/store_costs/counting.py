"""What requests cost, as the servers of a Redis or a cluster count it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis import Redis

from carousel_server.store.redis_link import client_of
from carousel_server.store.redis_node import connection_options
from carousel_server.store.redis_target import Kind, read_url
from carousel_server.store.redis_topology import Topology

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What one request of a kind costs, on average.

    Attributes:
        what: the request.
        calls: functions that all servers ran.
        bytes_in, bytes_out: what all servers got and sent.
        server_us: processor time of all servers, in microseconds.
        wall_us: time that the caller waited, in microseconds.
    """

    what: str
    calls: float
    bytes_in: float
    bytes_out: float
    server_us: float
    wall_us: float


class Servers:
    """The primaries of a store, and what they count."""

    def __init__(self, url: str) -> None:
        target = read_url(url)
        if target.kind is Kind.CLUSTER:
            topology = Topology(target, connection_options(_TIMEOUT_S))
            topology.refresh()
            self._clients = [topology.node(one).client for one in topology.slots.primaries]
        else:
            self._clients = [client_of(target, _TIMEOUT_S)]

    def cost(self, what: str, work: Callable[[], int]) -> Cost:
        """The cost of one request. `work` makes many of a kind, and returns how many."""
        idle = self._counted()
        before = self._counted()
        began_s = time.perf_counter()
        count = work()
        wall_s = time.perf_counter() - began_s
        after = self._counted()
        # Reading the counters counts too: as much as between the first two readings.
        calls, got, sent, busy_s = (
            (last - first) - (first - zero)
            for zero, first, last in zip(idle, before, after, strict=True)
        )
        return Cost(
            what,
            calls / count,
            got / count,
            sent / count,
            max(busy_s, 0.0) / count * 1e6,
            wall_s / count * 1e6,
        )

    def memory_bytes(self) -> int:
        """What all servers have allocated."""
        return sum(int(client.info("memory")["used_memory"]) for client in self._clients)

    def close(self) -> None:
        """Closes the connections."""
        for client in self._clients:
            client.close()

    def _counted(self) -> tuple[float, float, float, float]:
        """Functions run, bytes got and sent, and seconds of processor time, of all servers."""
        told = [_counters(client) for client in self._clients]
        return tuple(map(sum, zip(*told, strict=True)))  # type: ignore[return-value]


def _counters(client: Redis) -> tuple[float, float, float, float]:
    facts: dict[str, Any] = {}
    for section in ("commandstats", "stats", "cpu"):
        facts.update(client.info(section))
    calls = sum(
        facts.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("fcall", "fcall_ro")
    )
    return (
        float(calls),
        float(facts["total_net_input_bytes"]),
        float(facts["total_net_output_bytes"]),
        float(facts["used_cpu_user"]) + float(facts["used_cpu_sys"]),
    )
