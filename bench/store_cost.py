"""`python -m bench.store_cost URL…`: what each request costs a Redis or a cluster, counted by its servers.

The figures are for sizing: calls, bytes and processor time of the servers for one commit, acquire, renewal
and look into a mailbox. Use a store of your own, because the measurement opens and removes sessions.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis
from rich.console import Console
from rich.table import Table

from carousel_server.core.store import Announcement, Commit, NewSession, SessionKey
from carousel_server.core.types import Durability
from carousel_server.store.redis import RedisStore
from carousel_server.store.redis_link import client_of
from carousel_server.store.redis_node import connection_options
from carousel_server.store.redis_target import Kind, read_url
from carousel_server.store.redis_topology import Topology

_LEASE_TTL_S = 30.0
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


def measure(url: str, *, sessions: int, snapshot_bytes: int, rounds: int) -> Sequence[Cost]:
    """The costs at a store.

    Args:
        url: of a Redis or a cluster. The sessions are removed afterwards.
        sessions: number of sessions in one group of commits.
        snapshot_bytes: size of a snapshot.
        rounds: how often each request is repeated.

    Raises:
        StoreError: the store cannot be used.
        CarouselError: STORE_UNAVAILABLE.
    """
    store = RedisStore(url, "bench", _LEASE_TTL_S, prefix=f"bench-{os.getpid()}")
    said = Announcement("bench.invalid:1", True, sessions)
    keys = [SessionKey("bench", f"session-{number}") for number in range(sessions)]
    new = NewSession("model", Durability.ASYNC, 3600.0, 1, time.time())
    snapshot = os.urandom(snapshot_bytes)
    servers = Servers(url)

    def commit(seq: int) -> None:
        now = store.now_unix_s()
        store.commit([Commit(key, 1, seq, snapshot, now) for key in keys], fsync=False)

    def each(verb: Callable[[SessionKey], object]) -> Callable[[int], None]:
        def work(_: int) -> None:
            for key in keys:
                verb(key)

        return work

    try:
        return [
            servers.cost(
                "acquire", each(lambda key: store.acquire(key, epoch_floor=0, new=new)), 1, sessions
            ),
            servers.cost(f"commit, {sessions} in a group", commit, rounds, sessions),
            servers.cost("renew", lambda _: store.renew(said), rounds),
            servers.cost("replicas", lambda _: store.replicas(), rounds),
            servers.cost("look into the mailbox", lambda _: store.asked(256), rounds),
            servers.cost("sweep", lambda _: store.sweep(store.now_unix_s(), 256), rounds),
            servers.cost(
                "remove", each(lambda key: store.remove(key, 1, "SESSION_CLOSED")), 1, sessions
            ),
        ]
    finally:
        servers.close()
        store.close()


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

    def cost(self, what: str, work: Callable[[int], object], rounds: int, each: int = 1) -> Cost:
        """The cost of one of `rounds` × `each` requests. `work` gets the numbers 1 to `rounds`."""
        idle = self._counted()
        before = self._counted()
        began_s = time.perf_counter()
        for number in range(1, rounds + 1):
            work(number)
        wall_s = time.perf_counter() - began_s
        after = self._counted()
        # Reading the counters counts too: as much as between the first two readings.
        count = rounds * each
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


def main() -> int:
    """Measures each store that is named, and prints a table of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("urls", nargs="+", metavar="URL", help="redis:// or redis+cluster://")
    parser.add_argument("--sessions", type=int, default=512, help="in one group of commits")
    parser.add_argument("--snapshot-bytes", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    for url in options.urls:
        costs = measure(
            url,
            sessions=options.sessions,
            snapshot_bytes=options.snapshot_bytes,
            rounds=options.rounds,
        )
        Console().print(table(read_url(url).shown, costs))
    return 0


def table(title: str, costs: Sequence[Cost]) -> Table:
    """The costs for people."""
    made = Table(title=title)
    for name in ("one request", "calls", "bytes in", "bytes out", "server µs", "wall µs"):
        made.add_column(name, justify="left" if name == "one request" else "right")
    for one in costs:
        made.add_row(
            one.what,
            f"{one.calls:.2f}",
            f"{one.bytes_in:.0f}",
            f"{one.bytes_out:.0f}",
            f"{one.server_us:.0f}",
            f"{one.wall_us:.0f}",
        )
    return made


if __name__ == "__main__":
    sys.exit(main())
