"""From the `store` setting to the store that it names."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from carousel_server.core.store import Store

from .backup import Copied, back_up
from .faults import StoreError
from .memory import MemoryStore
from .sqlite import SqliteStore

Open = Callable[[str, str, float], Store]
"""Makes a store from its URL, the replica's name and the TTL of its lease; see `open_store`."""


class StoreKind(NamedTuple):
    """What the functions of this module need to know of one kind of store.

    Attributes:
        open: opens it.
        check: see `check_store`. It takes what `open` takes.
        back_up: see `back_up_store`.
    """

    open: Open
    check: Callable[[str, str, float], None]
    back_up: Callable[[str, Path], Copied]


class Form(NamedTuple):
    """A way to write a store's URL: how it begins, an example for people, the kind that it names."""

    start: str
    example: str
    kind: StoreKind


def open_store(url: str, *, replica: str, lease_ttl_s: float) -> Store:
    """Opens a store.

    Args:
        url: "memory"; "sqlite:PATH", or a path without a colon that ends in .db; or a redis://, rediss://
            or unix:// URL.
        replica: this server's name: the address that it has bound, so that no living one has the same.
        lease_ttl_s: how long sessions stay with a replica that is not heard of; for Redis only.

    Raises:
        StoreError: no such store, or it cannot be used; first line the cause, second the fix.
    """
    return kind_of(url).open(url, replica, lease_ttl_s)


def check_store(url: str, *, lease_ttl_s: float) -> None:
    """Opens a store and closes it, as a start would, and leaves no file that was not there.

    Raises:
        StoreError: see `open_store`.
    """
    kind_of(url).check(url, f"check-{secrets.token_hex(4)}", lease_ttl_s)


def back_up_store(url: str, destination: Path) -> Copied:
    """Copies the store that a setting names into a new file, while a server runs or not.

    Any path of a file is taken for one of SQLite, as people write it who read the guide of backups.

    Raises:
        StoreError: the store cannot be copied so, or the file cannot be written.
    """
    if not url:
        return _MEMORY.back_up(url, destination)
    is_path = ":" not in url or Path(url).expanduser().is_file()
    kind = _named(url) or (_SQLITE if is_path else kind_of(url))
    return kind.back_up(url, destination)


def kind_of(url: str) -> StoreKind:
    """The kind of store that a URL names.

    Raises:
        StoreError: there is no such kind.
    """
    kind = _named(url)
    if kind is not None:
        return kind
    examples = [form.example for form in FORMS]
    # The text is not repeated: it may be a URL with a password.
    raise StoreError(
        f"the store is of no known kind\nuse {', '.join(examples[:-1])} or {examples[-1]}"
    )


def _named(url: str) -> StoreKind | None:
    for form in FORMS:
        whole = form.start == form.example
        if url == form.start if whole else url.startswith(form.start):
            return form.kind
    is_file = url.endswith(".db") and ":" not in url
    return _SQLITE if is_file else None


# -- memory


def _open_memory(_url: str, replica: str, _lease_ttl_s: float) -> Store:
    return MemoryStore(owner=replica)


def _no_copy_of_memory(_url: str, _destination: Path) -> Copied:
    raise StoreError("a store in memory ends with its server\nserve with --store sqlite:FILE")


# -- SQLite


def _open_sqlite(url: str, _replica: str, _lease_ttl_s: float) -> Store:
    return SqliteStore(_path(url))


def _check_sqlite(url: str, replica: str, _lease_ttl_s: float) -> None:
    path = _path(url)
    if path.exists() or not path.parent.is_dir():
        SqliteStore(path).close()
        return
    # The server's user may be another, who could not write a file of ours.
    trial = path.with_name(f".{path.name}-{replica}")
    try:
        SqliteStore(trial).close()
    finally:
        for left in path.parent.glob(f"{trial.name}*"):
            left.unlink()


def _copy_of_sqlite(url: str, destination: Path) -> Copied:
    return back_up(_path(url), destination)


def _path(url: str) -> Path:
    """The file that a URL names; SQLite's own begin with two or three slashes, people write both.

    Raises:
        StoreError: it names none.
    """
    path = url.removeprefix("sqlite:")
    if path != url and path.startswith("//"):
        path = "/" + path.lstrip("/") if path.startswith("///") else path[2:]
    if not path:
        raise StoreError("the store names no file\nuse sqlite:PATH, such as sqlite:carousel.db")
    return Path(path).expanduser()


# -- Redis


def _open_redis(url: str, replica: str, lease_ttl_s: float) -> Store:
    if not 0.1 <= lease_ttl_s < math.inf:
        raise StoreError(f"leases cannot last {lease_ttl_s:g} s\nset at least 0.1")
    try:
        from .redis import RedisStore
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise StoreError(
            "the driver for Redis is not installed\npip install 'carousel-serving[redis]'"
        ) from None
    return RedisStore(url, replica, lease_ttl_s)


def _no_copy_of_redis(_url: str, _destination: Path) -> Copied:
    raise StoreError(
        "Redis makes its own copies\nuse BGSAVE or its append-only file; docs/guides/backup.md says how"
    )


def _opened(opens: Open) -> Callable[[str, str, float], None]:
    """The check of a store that a start may open and close without a trace."""
    return lambda url, replica, lease_ttl_s: opens(url, replica, lease_ttl_s).close()


_MEMORY = StoreKind(_open_memory, _opened(_open_memory), _no_copy_of_memory)
_SQLITE = StoreKind(_open_sqlite, _check_sqlite, _copy_of_sqlite)
_REDIS = StoreKind(_open_redis, _opened(_open_redis), _no_copy_of_redis)

FORMS = (
    Form("memory", "memory", _MEMORY),
    Form("sqlite:", "sqlite:PATH", _SQLITE),
    Form("redis://", "redis://HOST:PORT/0", _REDIS),
    Form("rediss://", "rediss://USER:PASSWORD@HOST:PORT/0", _REDIS),
    Form("unix://", "unix://PATH?db=0", _REDIS),
)
"""All ways to write a store, but for the path of a file of SQLite that ends in .db."""
