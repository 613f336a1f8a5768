"""Errors of Redis: what they mean for a call, and the errors that people read at the start."""

from __future__ import annotations

import redis
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

from carousel_server.core.errors import CarouselError

from .faults import StoreError, unavailable

_NOT_PRIMARY: dict[type[RedisError], str] = {
    ReadOnlyError: "READONLY",
    BusyLoadingError: "LOADING",
    MasterDownError: "MASTERDOWN",
    TryAgainError: "TRYAGAIN",
    ClusterDownError: "CLUSTERDOWN",
    AskError: "ASK",
    MovedError: "MOVED",
}
_NOT_PRIMARY_CODES = (*_NOT_PRIMARY.values(), "UNBLOCKED", "NOREPLICAS")
"""Error codes of a server that accepts no writes now. After a failover its address leads to another."""


def says_not_primary(answer: object) -> str:
    """The code of an error of a server that accepts no writes now. "" for other errors."""
    if not isinstance(answer, RedisError):
        return ""
    for kind, code in _NOT_PRIMARY.items():
        if type(answer) is kind:
            return code
    code = str(answer).partition(" ")[0]
    return code if code in _NOT_PRIMARY_CODES else ""


def is_missing(answer: object) -> bool:
    """True if the server lacks our functions."""
    return isinstance(answer, ResponseError) and "Function not found" in str(answer)


def refusal(answer: Exception) -> CarouselError:
    """STORE_UNAVAILABLE for an error that an answer is."""
    if code := says_not_primary(answer):
        return unavailable(
            f"the store's address leads to a Redis that accepts no writes now ({code})"
        )
    if isinstance(answer, OutOfMemoryError):
        return unavailable("the store's memory is full")
    if isinstance(answer, ResponseError):
        return unavailable("the store fails")
    return unavailable()


def explained(place: str, error: RedisError) -> StoreError:
    """The error for people, with its cause and fix."""
    text = str(error)
    if isinstance(error, redis.AuthenticationError) or "NOAUTH" in text or "WRONGPASS" in text:
        return StoreError(
            f"{place} refuses the user or the password\ncorrect them in the store's URL"
        )
    if isinstance(error, BusyLoadingError):
        return StoreError(
            f"{place} is still loading its data\nstart the server again when Redis has loaded"
        )
    if "unknown command" in text and "SENTINEL" in text:
        return StoreError(
            f"{place}: a server that answers there is no Sentinel\n"
            "name the Sentinels in the store's URL, mostly at port 26379"
        )
    if "SSL" in text:
        return StoreError(
            f"{place} does not agree on TLS: {text}\n"
            "name its port for TLS and ?ssl_ca_certs=FILE, or write redis in the place of rediss"
        )
    if isinstance(error, RedisConnectionError | redis.TimeoutError):
        return StoreError(
            f"{place} cannot be reached\nstart Redis there, or correct the store's URL"
        )
    return StoreError(
        f"{place} refuses what the store needs: {text}\n"
        "allow its user FUNCTION LOAD, FCALL and INFO on all keys"
    )
