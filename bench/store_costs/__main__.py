"""`python -m bench.store_costs URL…`: what each request costs a Redis or a cluster, counted by its servers.

The figures are for sizing: calls, bytes and processor time of the servers for one commit, acquire, renewal
and look into a mailbox. Use a store of your own, because the measurement opens and removes sessions.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from carousel_server.core.store import Announcement
from carousel_server.store.redis import RedisStore
from carousel_server.store.redis_target import read_url

from .counting import Cost, Servers
from .requests import Requests, repeated

_LEASE_TTL_S = 30.0


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
    requests, servers = Requests(store, sessions, snapshot_bytes), Servers(url)
    cost = servers.cost

    def commit() -> int:
        return sum(requests.commit(requests.keys) for _ in range(rounds))

    try:
        return [
            cost("open", requests.open),
            cost(f"commit, {sessions} in a group", commit),
            cost(f"release, {sessions} in a group", requests.release),
            cost("activate", requests.activate),
            cost("renew", repeated(rounds, lambda: store.renew(said))),
            cost("replicas", repeated(rounds, store.replicas)),
            cost("look into the mailbox", repeated(rounds, lambda: store.asked(256))),
            cost("sweep", repeated(rounds, lambda: store.sweep(store.now_unix_s(), 256))),
            cost("remove", requests.remove),
        ]
    finally:
        servers.close()
        store.close()


def main() -> int:
    """Measures each store that is named, and prints a table of it."""
    parser = argparse.ArgumentParser(prog="python -m bench.store_costs", description=__doc__)
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
