"""From the `store` setting to the store that it names."""

from __future__ import annotations

import math
import secrets
from pathlib import Path

from carousel_server.core.store import Store

from .backup import Copied, back_up
from .faults import StoreError
from .memory import MemoryStore
from .sqlite import SqliteStore

_FORMS = "memory, sqlite:PATH, redis://HOST:PORT/0 or rediss://USER:PASSWORD@HOST:PORT/0"


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
    if url == "memory":
        return MemoryStore(owner=replica)
    path = _sqlite_path(url)
    if path is not None:
        return SqliteStore(path)
    if url.startswith(("redis://", "rediss://", "unix://")):
        return _redis(url, replica, lease_ttl_s)
    # The text is not repeated: it may be a URL with a password.
    raise StoreError(f"the store is of no known kind\nuse {_FORMS}")


def check_store(url: str, *, lease_ttl_s: float) -> None:
    """Opens a store and closes it, as a start would, and leaves no file that was not there.

    Raises:
        StoreError: see `open_store`.
    """
    replica = f"check-{secrets.token_hex(4)}"
    path = _sqlite_path(url)
    if path is None or path.exists() or not path.parent.is_dir():
        open_store(url, replica=replica, lease_ttl_s=lease_ttl_s).close()
        return
    # The server's user may be another, who could not write a file of ours.
    trial = path.with_name(f".{path.name}-{replica}")
    try:
        SqliteStore(trial).close()
    finally:
        for left in path.parent.glob(f"{trial.name}*"):
            left.unlink()


def back_up_store(url: str, destination: Path) -> Copied:
    """Copies the store that a setting names into a new file, while a server runs or not.

    Raises:
        StoreError: the store cannot be copied so, or the file cannot be written.
    """
    if url.startswith(("redis://", "rediss://", "unix://")):
        raise StoreError(
            "Redis makes its own copies\nuse BGSAVE or its append-only file; docs/guides/backup.md says how"
        )
    if url in ("", "memory"):
        raise StoreError("a store in memory ends with its server\nserve with --store sqlite:FILE")
    return back_up(_sqlite_path(url) or Path(url).expanduser(), destination)


def _sqlite_path(url: str) -> Path | None:
    """The file of SQLite that a URL names; SQLite's own begin with two or three slashes, people write both.

    Raises:
        StoreError: it names none.
    """
    if not url.startswith("sqlite:"):
        return Path(url).expanduser() if url.endswith(".db") and ":" not in url else None
    path = url.removeprefix("sqlite:")
    if path.startswith("//"):
        path = "/" + path.lstrip("/") if path.startswith("///") else path[2:]
    if not path:
        raise StoreError("the store names no file\nuse sqlite:PATH, such as sqlite:carousel.db")
    return Path(path).expanduser()


def _redis(url: str, replica: str, lease_ttl_s: float) -> Store:
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
