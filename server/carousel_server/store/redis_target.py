"""Reads a URL of Redis: one server, a cluster, or servers behind Sentinels."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import redis
from redis.connection import parse_url

from .faults import StoreError

CLUSTER_SHARDS = 64
"""Shards of a new store in a cluster. A lease is renewed in each, and 20 servers still have three each."""
MOST_SHARDS = 256

_SENTINEL_PORT = 26_379
_PORT = 6379

Address = tuple[str, int]


class Kind(Enum):
    """What a URL names. The value is the scheme's end."""

    SINGLE = ""
    CLUSTER = "+cluster"
    SENTINEL = "+sentinel"


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL says.

    Attributes:
        kind: what it names.
        places: addresses to begin with. Empty for a single server, whose address is in `options`.
        options: of every connection, as redis-py names them, with user and password.
        service: the Sentinels' name of the primary.
        sentinel_options: of connections to Sentinels.
        shards: the number of hash tags that it asks for. 0 if it asks for none.
        shown: the server's address, for people, without user and password.
    """

    kind: Kind
    places: tuple[Address, ...]
    options: dict[str, Any]
    service: str = ""
    sentinel_options: dict[str, Any] | None = None
    shards: int = 0
    shown: str = "redis"


def read_url(url: str) -> Target:
    """Reads a URL.

    Raises:
        StoreError: it cannot be read. The error does not have its text, which may have a password.
    """
    scheme = url.partition("://")[0]
    kinds = {kind.value: kind for kind in Kind}
    plain, plus, end = scheme.partition("+")
    kind = kinds.get(plus + end)
    readers = {Kind.SINGLE: _single, Kind.CLUSTER: _cluster, Kind.SENTINEL: _sentinel}
    examples = {
        Kind.SINGLE: "redis://user:password@host:6379/0",
        Kind.CLUSTER: "redis+cluster://user:password@host1:6379,host2:6379",
        Kind.SENTINEL: "redis+sentinel://user:password@host1:26379,host2:26379/NAME",
    }
    assert kind is not None, "opening.py knows the schemes"
    try:
        return readers[kind](plain, url)
    except StoreError:
        raise
    except (ValueError, TypeError):  # its text may have the password
        raise StoreError(
            f"the store's URL cannot be read\nwrite {examples[kind]}, "
            "with special characters of the password percent-encoded"
        ) from None


def shown(places: tuple[Address, ...]) -> str:
    """Addresses for people."""
    return "redis at " + ", ".join(f"{host}:{port}" for host, port in places)


def _single(_scheme: str, url: str) -> Target:
    head, _, query = url.partition("?")
    extra, rest = _extra(query, "shards")
    plain = f"{head}?{rest}" if rest else head
    options = dict(parse_url(plain))  # type: ignore[no-untyped-call]
    redis.Redis.from_url(plain).connection_pool.make_connection()  # checks the options only
    host = options.get("host") or options.get("path") or "localhost"
    port = f":{options['port']}" if "port" in options else ""
    return Target(Kind.SINGLE, (), options, shards=_shards(extra), shown=f"redis at {host}{port}")


def _cluster(scheme: str, url: str) -> Target:
    user, places, path, query = _parts(url, _PORT)
    if path not in ("", "0"):
        raise ValueError("a cluster has database 0 only")
    extra, rest = _extra(query, "shards")
    options = _options(f"{scheme}://{user}{{}}/0", places[0], rest)
    return Target(Kind.CLUSTER, places, options, shards=_shards(extra), shown=shown(places))


def _sentinel(scheme: str, url: str) -> Target:
    user, places, path, query = _parts(url, _SENTINEL_PORT)
    service, _, database = path.partition("/")
    if not service or not (database or "0").isdecimal():
        raise ValueError("a Sentinel's URL ends with the primary's name and a database")
    extra, rest = _extra(query, "shards", "sentinel_username", "sentinel_password")
    options = _options(f"{scheme}://{user}{{}}/{database or 0}", places[0], rest)
    asked = {key: value for key, value in options.items() if key.startswith("ssl")}
    for name in ("username", "password"):
        if f"sentinel_{name}" in extra:
            asked[name] = extra[f"sentinel_{name}"]
    if scheme == "rediss":
        asked["ssl"], options["ssl"] = True, True
    options.pop("connection_class", None)
    return Target(
        *(Kind.SENTINEL, places, options, unquote(service), asked),
        shards=_shards(extra),
        shown=f"{shown(places)}, primary {unquote(service)!r}",
    )


def _parts(url: str, port: int) -> tuple[str, tuple[Address, ...], str, str]:
    """User and password as they stand there, the addresses, the path and the query."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    places = tuple(_place(one, port) for one in hosts.split(","))
    return user + at, places, parts.path.strip("/"), parts.query


def _place(text: str, port: int) -> Address:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.username is not None:
        raise ValueError("a host is missing")
    return parts.hostname, parts.port or port


def _options(form: str, place: Address, query: str) -> dict[str, Any]:
    """The options of a connection, without its address."""
    host = f"[{place[0]}]" if ":" in place[0] else place[0]
    url = form.format(f"{host}:{place[1]}") + (f"?{query}" if query else "")
    redis.Redis.from_url(url).connection_pool.make_connection()  # checks the options only
    options = dict(parse_url(url))  # type: ignore[no-untyped-call]
    for name in ("host", "port"):
        options.pop(name, None)
    return options


def _extra(query: str, *names: str) -> tuple[dict[str, str], str]:
    """Our own options of a query, and the query without them."""
    pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    ours = {name: value for name, value in pairs if name in names}
    return ours, urlencode([(name, value) for name, value in pairs if name not in names])


def _shards(extra: dict[str, str]) -> int:
    count = int(extra.get("shards", 0))
    if not 0 <= count <= MOST_SHARDS or ("shards" in extra and not count):
        raise StoreError(
            f"a store cannot have {count} shards\nset shards from 1 to {MOST_SHARDS} in the store's URL"
        )
    return count
