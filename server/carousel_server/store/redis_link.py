"""The connection to one Redis or Valkey, or to the primary that Sentinels name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import redis
from redis.exceptions import RedisError
from redis.sentinel import MasterNotFoundError, Sentinel
from typing_extensions import override

from carousel_server.core.errors import CarouselError

from .faults import StoreError, unavailable
from .redis_errors import explained, is_missing, refusal, says_not_primary
from .redis_node import Answers, Call, Node, connection_options
from .redis_target import Kind, Target


class Link(Protocol):
    """Calls of our functions in Redis. Used by one thread.

    Attributes:
        shards: number of hash tags of a new store.
    """

    shards: int

    def call_each(self, calls: Sequence[Call]) -> Answers:
        """The answers of several functions, sent together. Each function is atomic, but not all together.

        Those that failed have a CarouselError as their answer, STORE_UNAVAILABLE.
        """

    def call_all(self, calls: Sequence[Call]) -> Answers:
        """As `call_each`, if all are needed.

        Raises:
            CarouselError: STORE_UNAVAILABLE, if any failed.
        """

    def keys_like(self, pattern: str) -> Iterator[bytes]:
        """All keys of a pattern. It reads the names of all keys, so it is for rare checks.

        Raises:
            CarouselError: STORE_UNAVAILABLE.
        """

    def is_fsynced(self) -> bool:
        """True if each write is on the disk before its answer."""

    def used_bytes(self) -> int:
        """Bytes of memory that the servers use. -1 where that is unknown."""

    def close(self) -> None:
        """Closes the connections. Idempotent."""


class RedisLink(Link):
    """A connection to one server.

    A lost connection is opened again and the call repeated, since all our calls may be repeated. The same
    happens where a server accepts no more writes, because the address may lead to the new primary.

    Args:
        target: a single server, or Sentinels, which are asked for the primary at each new connection.
        timeout_s: for opening the connection, and for each answer.

    Raises:
        StoreError: the server cannot be reached, is too old, a replica, or part of a cluster.
    """

    shards = 1

    def __init__(self, target: Target, timeout_s: float) -> None:
        self.place = target.shown
        self._client = client_of(target, timeout_s)
        self._node = Node(self._client, self.place)
        try:
            self._node.check("standalone")
            self._node.load()
        except StoreError:
            self.close()
            raise
        except MasterNotFoundError:
            self.close()
            raise no_primary(self.place) from None
        except RedisError as error:
            self.close()
            raise explained(self.place, error) from None
        self._node.warn_of_eviction()

    @override
    def call_each(self, calls: Sequence[Call]) -> Answers:
        try:
            return self.call_all(calls)
        except CarouselError as error:
            return [error] * len(calls)

    @override
    def call_all(self, calls: Sequence[Call]) -> Answers:
        answers = self._tried(calls)
        if any(says_not_primary(answer) for answer in answers):
            self._node.drop()
            answers = self._tried(calls)
        for answer in answers:
            if isinstance(answer, Exception):
                if says_not_primary(answer):
                    self._node.drop()
                raise refusal(answer) from answer
        return answers

    def _tried(self, calls: Sequence[Call]) -> Answers:
        """The answers. Raises the error that a new connection may solve, if there is one."""
        try:
            answers = self._send(calls)
            if any(is_missing(answer) for answer in answers):
                self._node.load()  # the server was emptied or replaced
                answers = self._send(calls)
        except RedisError as error:
            if says_not_primary(error):
                return [error]
            raise unavailable() from error
        return answers

    def _send(self, calls: Sequence[Call]) -> Answers:
        return self._node.send(calls)

    @override
    def keys_like(self, pattern: str) -> Iterator[bytes]:
        return self._node.keys_like(pattern)

    @override
    def is_fsynced(self) -> bool:
        return self._node.is_fsynced()

    @override
    def used_bytes(self) -> int:
        try:
            return self._node.used_bytes()
        except RedisError as error:
            raise unavailable() from error

    @override
    def close(self) -> None:
        self._client.close()


def no_primary(place: str) -> StoreError:
    """The error for Sentinels that name no primary."""
    return StoreError(
        f"the Sentinels of {place} cannot be reached, or know no such primary\n"
        "correct the addresses and the name in the store's URL"
    )


def client_of(target: Target, timeout_s: float) -> redis.Redis:
    """The client of a single server, or of the primary that Sentinels name. Each answer has `timeout_s`."""
    options: dict[str, Any] = {**connection_options(timeout_s), **target.options}
    if target.kind is not Kind.SENTINEL:
        return redis.Redis(connection_pool=redis.ConnectionPool(**options))
    asked = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    asked.update(target.sentinel_options or {})
    sentinels = Sentinel(target.places, sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
    client: redis.Redis = sentinels.master_for(target.service, **options)  # type: ignore[no-untyped-call]
    return client
