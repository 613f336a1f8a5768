"""The connection to Redis or Valkey. It loads and calls our functions, and maps faults to errors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from .faults import StoreError, unavailable

log = logging.getLogger(__name__)

LIBRARY = "carousel_v3"
_LEAST_VERSION = 7

_NOT_PRIMARY: dict[type[RedisError], str] = {
    ReadOnlyError: "READONLY",
    BusyLoadingError: "LOADING",
    MasterDownError: "MASTERDOWN",
    TryAgainError: "TRYAGAIN",
    ClusterDownError: "CLUSTERDOWN",
    MovedError: "MOVED",
    AskError: "ASK",
}
_NOT_PRIMARY_CODES = (*_NOT_PRIMARY.values(), "UNBLOCKED", "NOREPLICAS")
"""Error codes of a server that accepts no writes now. After a failover its address leads to another."""

Arguments = Sequence[str | bytes | int]
Answers = list[Any]
Call = tuple[str, Sequence[str], Arguments]
"""A function's name without the library's, its keys and its arguments."""


class RedisLink:
    """One connection. Used by one thread.

    A lost connection is opened again and the call repeated, since all our calls may be repeated. The same
    happens where a server accepts no more writes, because the address may lead to the new primary.

    Args:
        url: redis://, rediss:// or unix://, with user, password and number of the database.
        timeout_s: for opening the connection, and for each answer.

    Raises:
        StoreError: the URL is not valid, or the server cannot be reached, is too old, a replica, or part
            of a cluster.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self.place = _place(url)
        try:
            self._client = redis.Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                client_name="carousel",
                retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
            )
            self._client.connection_pool.make_connection()  # checks the URL's options only
        except (ValueError, TypeError):  # its text may have the password
            raise StoreError(
                "the store's URL cannot be read\nwrite redis://user:password@host:6379/0, "
                "with special characters of the password percent-encoded"
            ) from None
        try:
            self._check_server()
            self._load()
        except RedisError as error:
            raise self._explained(error) from None
        self._warn_of_eviction()

    def call(self, function: str, keys: Sequence[str], arguments: Arguments) -> Any:
        """The answer of one function.

        Raises:
            CarouselError: STORE_UNAVAILABLE.
        """
        return self.call_all([(function, keys, arguments)])[0]

    def call_all(self, calls: Sequence[Call]) -> list[Any]:
        """The answers of several functions, sent together. Each function is atomic, but not all together.

        Raises:
            CarouselError: STORE_UNAVAILABLE, if any failed.
        """
        answers = self._tried(calls)
        if any(_says_not_primary(answer) for answer in answers):
            self._client.connection_pool.disconnect()
            answers = self._tried(calls)
        for answer in answers:
            if isinstance(answer, Exception):
                if refusal := _says_not_primary(answer):
                    self._client.connection_pool.disconnect()
                    raise unavailable(_not_primary(refusal)) from answer
                full = isinstance(answer, OutOfMemoryError)
                raise unavailable(
                    "the store's memory is full" if full else "the store fails"
                ) from answer
        return answers

    def _tried(self, calls: Sequence[Call]) -> list[Any]:
        """The answers. Raises the error that a new connection may solve, if there is one."""
        try:
            answers = self._send(calls)
            if any(_is_missing(answer) for answer in answers):
                self._load()  # the server was emptied or replaced
                answers = self._send(calls)
        except RedisError as error:
            if _says_not_primary(error):
                return [error]
            raise unavailable() from error
        return answers

    def is_fsynced(self) -> bool:
        """True if each write is on the disk before its answer."""
        return (self._setting("appendonly"), self._setting("appendfsync")) == ("yes", "always")

    def used_bytes(self) -> int:
        """Bytes of memory that the server uses. -1 where that is unknown."""
        try:
            return int(self._client.info("memory")["used_memory"])
        except ResponseError:
            return -1
        except RedisError as error:
            raise unavailable() from error

    def close(self) -> None:
        """Closes the connection. Idempotent."""
        self._client.close()

    def _send(self, calls: Sequence[Call]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for function, keys, arguments in calls:
            pipeline.fcall(f"{LIBRARY}_{function}", len(keys), *keys, *arguments)
        return list(pipeline.execute(raise_on_error=False))

    def _load(self) -> None:
        source = resources.files(__package__).joinpath("carousel.lua").read_text(encoding="utf-8")
        self._client.function_load(source, replace=True)

    def _check_server(self) -> None:
        server = self._client.info("server")
        version, mode = str(server["redis_version"]), str(server.get("redis_mode", "standalone"))
        if int(version.partition(".")[0]) < _LEAST_VERSION:
            raise StoreError(
                f"{self.place} is Redis {version}, which has no functions\nuse Redis 7 or Valkey"
            )
        if mode != "standalone":
            what = {"cluster": "a node of a Redis Cluster", "sentinel": "a Redis Sentinel"}
            raise StoreError(
                f"{self.place} is {what.get(mode, f'in mode {mode}')}, and not a single Redis\n"
                "name a Redis or Valkey that is its own primary, without cluster-enabled"
            )
        replication = self._client.info("replication")
        if replication.get("role", "master") != "master":
            primary = f"{replication.get('master_host')}:{replication.get('master_port')}"
            raise StoreError(
                f"{self.place} is a replica of {primary} and accepts no writes\n"
                "name the primary in the store's URL, or an address that follows a failover"
            )

    def _warn_of_eviction(self) -> None:
        policy = self._setting("maxmemory-policy")
        if policy not in ("noeviction", ""):
            log.warning(
                "%s drops keys when its memory is full (maxmemory-policy %s): sessions can be lost; "
                "set noeviction",
                self.place,
                policy,
            )

    def _setting(self, name: str) -> str:
        """A setting of the server. "" where it is unknown."""
        try:
            return str(self._client.config_get(name).get(name, ""))
        except RedisError:
            return ""

    def _explained(self, error: RedisError) -> StoreError:
        text = str(error)
        if isinstance(error, redis.AuthenticationError) or "NOAUTH" in text or "WRONGPASS" in text:
            return StoreError(
                f"{self.place} refuses the user or the password\ncorrect them in the store's URL"
            )
        if isinstance(error, BusyLoadingError):
            return StoreError(
                f"{self.place} is still loading its data\nstart the server again when Redis has loaded"
            )
        if isinstance(error, RedisConnectionError | redis.TimeoutError):
            return StoreError(
                f"{self.place} cannot be reached\nstart Redis there, or correct the store's URL"
            )
        return StoreError(
            f"{self.place} refuses what the store needs: {text}\n"
            "allow its user FUNCTION LOAD, FCALL and INFO on all keys"
        )


def _place(url: str) -> str:
    """The server's address, without user and password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "redis"
    return f"redis at {host or parts.path or 'localhost'}{f':{port}' if port else ''}"


def _says_not_primary(answer: object) -> str:
    """The code of an error of a server that accepts no writes now. "" for other errors."""
    if not isinstance(answer, RedisError):
        return ""
    for kind, code in _NOT_PRIMARY.items():
        if isinstance(answer, kind):
            return code
    code = str(answer).partition(" ")[0]
    return code if code in _NOT_PRIMARY_CODES else ""


def _not_primary(code: str) -> str:
    return f"the store's address leads to a Redis that accepts no writes now ({code})"


def _is_missing(answer: object) -> bool:
    return isinstance(answer, ResponseError) and "Function not found" in str(answer)
