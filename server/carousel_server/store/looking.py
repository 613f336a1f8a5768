"""What is known about a store without a change of it. For `carousel doctor`."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .faults import StoreError
from .sqlite_file import check_file, check_place

if TYPE_CHECKING:
    import redis

    from .redis_node import Node
    from .redis_target import Target

LITTLE_SPACE_BYTES = 1 << 30
CLOCK_S = 1.0
"""Difference of two clocks from which leases and expiry times are noticeably off."""
_TIMEOUT_S = 5.0
_LOCKS = Path("/proc/locks")


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact about a store.

    Attributes:
        what: its name, such as "store memory".
        found: what was found, for people. It has no password.
        fix: what to do about it. "" if it is well.
    """

    what: str
    found: str
    fix: str = ""


def look_at_memory() -> Sequence[Fact]:
    """A store in memory is always there."""
    return [Fact("store", "memory: it parks idle sessions, and ends with the server")]


# -- SQLite


def look_at_sqlite(path: Path) -> Sequence[Fact]:
    """Facts about a SQLite file and its folder. Nothing is opened for writing.

    Raises:
        StoreError: a server could not use it.
    """
    check_place(path)
    folder = path.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StoreError(
            f"cannot write {folder}: permission denied\n"
            "give the server's user the right to write there, or name another file"
        )
    return [
        Fact("store", f"{path}: {_contents(path)}"),
        _space(folder),
        Fact("store driver", f"SQLite {sqlite3.sqlite_version}"),
    ]


def _contents(path: Path) -> str:
    if not path.exists():
        return "a server will make it"
    if not os.access(path, os.R_OK | os.W_OK):
        raise StoreError(
            f"cannot open {path}: permission denied\n"
            "give the server's user the right to read and write it, or name another file"
        )
    check_file(path)
    users = locked_by(path.with_name(f"{path.name}.lock"))
    used = f", in use by process {' and '.join(map(str, users))}" if users else ""
    return f"{path.stat().st_size:,} bytes{used}"


def _space(folder: Path) -> Fact:
    free = shutil.disk_usage(folder).free
    few = free < LITTLE_SPACE_BYTES
    fix = f"free some space at {folder}, or name a file on another disk" if few else ""
    return Fact("store space", f"{free / 1e9:.1f} GB free at {folder}", fix)


def locked_by(file: Path, locks: Path = _LOCKS) -> Sequence[int]:
    """Ids of the processes that have a file locked. Empty where the system does not list locks."""
    try:
        inode = file.stat().st_ino
        lines = locks.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    holders = set()
    for words in map(str.split, lines):
        # Such as "3: FLOCK ADVISORY WRITE 4711 08:01:131078 0 EOF". "->" marks one that waits.
        if len(words) >= 6 and words[5].rpartition(":")[2] == str(inode):
            holders.add(int(words[4]))
    return sorted(holders)


# -- Redis


def look_at_redis(url: str) -> Sequence[Fact]:
    """Facts about each primary of a Redis or Valkey. No key and no function is written.

    Raises:
        StoreError: a server could not use it.
    """
    try:
        from redis.exceptions import RedisError
        from redis.sentinel import MasterNotFoundError

        from .redis_errors import explained
        from .redis_link import no_primary
        from .redis_target import read_url
    except ModuleNotFoundError as error:
        raise no_driver(error) from None
    target = read_url(url)
    try:
        return [fact for node, mode in _nodes(target) for fact in _facts(node, mode)]
    except MasterNotFoundError:
        raise no_primary(target.shown) from None
    except RedisError as error:
        raise explained(target.shown, error) from None


def no_driver(error: ModuleNotFoundError) -> Exception:
    """The error for a missing driver of Redis. Another missing module is its own error."""
    if (error.name or "").partition(".")[0] != "redis":
        return error
    return StoreError(
        "the driver for Redis is not installed\npip install 'carousel-serving[redis]'"
    )


def _nodes(target: Target) -> Iterator[tuple[Node, str]]:
    """The primaries that a target names, each with the mode that it must have."""
    from .redis_link import client_of
    from .redis_node import Node, connection_options
    from .redis_target import Kind
    from .redis_topology import Topology, ownerless

    if target.kind is not Kind.CLUSTER:
        client = client_of(target, _TIMEOUT_S)
        try:
            yield Node(client, target.shown), "standalone"
        finally:
            client.close()
        return
    topology = Topology(target, connection_options(_TIMEOUT_S))
    try:
        topology.begin()
        if not topology.slots.is_whole:
            raise ownerless(target.shown)
        for address in topology.slots.primaries:
            yield topology.node(address), "cluster"
    finally:
        topology.close()


def _facts(node: Node, mode: str) -> Iterator[Fact]:
    node.check(mode)
    server: Any = node.client.info("server")
    kind = "Valkey" if "valkey_version" in server else "Redis"
    version = server.get("valkey_version") or server["redis_version"]
    yield Fact("store", f"{node.place}: {kind} {version}, {mode}, a primary")
    yield _eviction(node)
    yield _disk(node)
    yield _clock(node.client)


def _eviction(node: Node) -> Fact:
    policy = node.setting("maxmemory-policy")
    if not policy:
        return Fact("store memory", "the policy is not known: the server refuses CONFIG GET")
    most = int(node.setting("maxmemory") or 0)
    used, limit = node.used_bytes(), f"of {most / 1e6:,.0f} MB" if most else "without a limit"
    fix = "" if policy == "noeviction" else "set maxmemory-policy noeviction, or sessions get lost"
    return Fact("store memory", f"{used / 1e6:,.0f} MB used {limit}, {policy}", fix)


def _disk(node: Node) -> Fact:
    appends, syncs = node.setting("appendonly"), node.setting("appendfsync")
    if appends == "yes":
        return Fact("store disk", f"appendonly yes, appendfsync {syncs}")
    if not appends:
        return Fact("store disk", "not known: the server refuses CONFIG GET")
    return Fact(
        "store disk",
        "appendonly no: a restart of Redis loses sessions",
        "set appendonly yes, or accept that",
    )


def _clock(client: redis.Redis) -> Fact:
    before_s = time.time()
    with suppress(ValueError):  # an answer that is no time
        seconds, microseconds = client.time()
        off_s = seconds + microseconds / 1e6 - (before_s + time.time()) / 2
        fix = "" if abs(off_s) < CLOCK_S else "set both clocks by NTP"
        return Fact("store clock", f"{off_s:+.3f} s against this machine", fix)
    return Fact("store clock", "not known")
