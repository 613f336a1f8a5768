"""One server of Redis or Valkey: loads our functions, sends calls, and checks that it can be used."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from .faults import StoreError, unavailable

log = logging.getLogger(__name__)

LIBRARY = "carousel_v5"
_LEAST_VERSION = 7

Arguments = Sequence[str | bytes | int]
Answers = list[Any]
Call = tuple[str, Sequence[str], Arguments]
"""A function's name without the library's, its keys and its arguments."""

_MODES = {
    "cluster": ("a node of a Redis Cluster", "redis+cluster://HOST1:PORT,HOST2:PORT"),
    "sentinel": ("a Redis Sentinel", "redis+sentinel://HOST1:PORT,HOST2:PORT/NAME"),
    "standalone": ("a single Redis, and not of a cluster", "redis://HOST:PORT/0"),
}
"""Modes of a server: what it is, and the URL for it."""


def connection_options(timeout_s: float) -> dict[str, Any]:
    """Options of all our connections. A lost connection is opened again once, and the call repeated."""
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "client_name": "carousel",
        "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    }


class Node:
    """One server. `client` may be used by several threads.

    Attributes:
        client: sends to it.
        place: its address, for people.
    """

    def __init__(self, client: redis.Redis, place: str) -> None:
        self.client = client
        self.place = place

    def send(self, calls: Sequence[Call], *, asking: bool = False) -> Answers:
        """The answers of calls, sent together. An error of one call is its answer.

        Args:
            calls: functions with keys and arguments.
            asking: the node is told before each call that another node has sent us here (ASK).

        Raises:
            RedisError: the connection is lost, or nothing came in time.
        """
        pipeline = self.client.pipeline(transaction=False)
        for function, keys, arguments in calls:
            if asking:
                pipeline.execute_command("ASKING")  # type: ignore[no-untyped-call]
            pipeline.fcall(f"{LIBRARY}_{function}", len(keys), *keys, *arguments)
        answers = list(pipeline.execute(raise_on_error=False))
        return answers[1::2] if asking else answers

    def load(self) -> None:
        """Loads our functions."""
        source = resources.files(__package__).joinpath("carousel.lua").read_text(encoding="utf-8")
        self.client.function_load(source, replace=True)

    def keys_like(self, pattern: str) -> Iterator[bytes]:
        """See `Link.keys_like`."""
        try:
            yield from self.client.scan_iter(match=pattern, count=1000)
        except RedisError as error:
            raise unavailable() from error

    def drop(self) -> None:
        """Closes the connections. The next call opens a new one, perhaps to another server."""
        self.client.connection_pool.disconnect()

    def check(self, mode: str) -> None:
        """Checks version, mode and role.

        Raises:
            StoreError: it is too old, of another mode, or a replica.
            RedisError: it cannot be asked.
        """
        server = self.client.info("server")
        version = str(server["redis_version"])
        # Valkey has another name for the mode.
        found = str(server.get("redis_mode") or server.get("server_mode") or "standalone")
        if int(version.partition(".")[0]) < _LEAST_VERSION:
            raise StoreError(
                f"{self.place} is Redis {version}, which has no functions\nuse Redis 7 or Valkey"
            )
        if found != mode:
            what, url = _MODES.get(found, (f"in mode {found}", "one of the other forms"))
            raise StoreError(f"{self.place} is {what}\nwrite the store's URL as {url}")
        replication = self.client.info("replication")
        if mode == "standalone" and replication.get("role", "master") != "master":
            primary = f"{replication.get('master_host')}:{replication.get('master_port')}"
            raise StoreError(
                f"{self.place} is a replica of {primary} and accepts no writes\n"
                "name the primary in the store's URL, or an address that follows a failover"
            )

    def warn_of_eviction(self) -> None:
        """Logs a warning if the server may drop sessions."""
        policy = self.setting("maxmemory-policy")
        if policy not in ("noeviction", ""):
            log.warning(
                "%s drops keys when its memory is full (maxmemory-policy %s): sessions can be lost; "
                "set noeviction",
                self.place,
                policy,
            )

    def is_fsynced(self) -> bool:
        """True if each write is on the disk before its answer."""
        return (self.setting("appendonly"), self.setting("appendfsync")) == ("yes", "always")

    def used_bytes(self) -> int:
        """Bytes of memory that the server uses. -1 where that is unknown.

        Raises:
            RedisError: it cannot be asked.
        """
        try:
            return int(self.client.info("memory")["used_memory"])
        except ResponseError:
            return -1

    def setting(self, name: str) -> str:
        """A setting of the server. "" where it is unknown."""
        try:
            return str(self.client.config_get(name).get(name, ""))
        except RedisError:
            return ""
