"""Opens, checks and copies the store that the setting `store` names."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from carousel_server.core.store import Store

from .backup import Copied, back_up
from .faults import StoreError
from .looking import Fact, look_at_memory, look_at_redis, look_at_sqlite, no_driver
from .memory import MemoryStore
from .sqlite import SqliteStore
from .sqlite_shared import SharedSqliteStore

Open = Callable[[str, str, float], Store]
"""Opens a store from its URL, the replica's name and the TTL of its lease. See `open_store`."""


class StoreKind(NamedTuple):
    """The functions for one kind of store.

    Attributes:
        open: opens it.
        check: see `check_store`. It has the arguments of `open`.
        back_up: see `back_up_store`.
        look: see `look_at_store`.
        share: opens it for a replica beside others. None uses `open`.
    """

    open: Open
    check: Callable[[str, str, float], None]
    back_up: Callable[[str, Path], Copied]
    look: Callable[[str], Sequence[Fact]]
    share: Open | None = None


class Form(NamedTuple):
    """A form of a store's URL: its beginning, an example, and the kind of store."""

    start: str
    example: str
    kind: StoreKind


def open_store(url: str, *, replica: str, lease_ttl_s: float, shared: bool = False) -> Store:
    """Opens a store.

    Args:
        url: "memory", "sqlite:PATH", a path without a colon that ends in .db, or a URL of Redis. See `FORMS`.
        replica: this server's name, which no other running server may have.
        lease_ttl_s: how long a replica that does not answer keeps its sessions. At least 0.1, where
            several replicas can use the store.
        shared: other replicas on this machine use it too, and open it with `shared`.

    Raises:
        StoreError: there is no such store, or it cannot be used or shared.
    """
    kind = kind_of(url)
    opens = kind.share if shared and kind.share is not None else kind.open
    return opens(url, replica, lease_ttl_s)


def check_store(url: str, *, lease_ttl_s: float) -> None:
    """Opens and closes a store, as a start of the server does. It leaves no new file.

    Raises:
        StoreError: see `open_store`.
    """
    kind_of(url).check(url, f"check-{secrets.token_hex(4)}", lease_ttl_s)


def look_at_store(url: str) -> Sequence[Fact]:
    """Facts about a store, for people. Nothing is written, and a server may use it.

    Raises:
        StoreError: there is no such store, or a server could not use it.
    """
    return kind_of(url).look(url)


def back_up_store(url: str, destination: Path) -> Copied:
    """Copies the store of the setting `store` into a new file, whether or not a server runs.

    A path of a file is accepted too, and names a SQLite file.

    Raises:
        StoreError: this kind of store cannot be copied, or the file cannot be written.
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
    # The message has no URL, because it may have a password.
    raise StoreError(
        f"the kind of store is unknown\nuse {', '.join(examples[:-1])} or {examples[-1]}"
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


def _no_sharing_of_memory(_url: str, _replica: str, _lease_ttl_s: float) -> Store:
    raise StoreError(
        "a store in memory is of one process, so replicas cannot share it\nset --store sqlite:FILE"
    )


def _no_copy_of_memory(_url: str, _destination: Path) -> Copied:
    raise StoreError(
        "a store in memory cannot be copied\nstart the server with --store sqlite:FILE"
    )


# -- SQLite


def _open_sqlite(url: str, replica: str, _lease_ttl_s: float) -> Store:
    return SqliteStore(_path(url), owner=replica)


def _share_sqlite(url: str, replica: str, lease_ttl_s: float) -> Store:
    _check_ttl(lease_ttl_s)
    return SharedSqliteStore(_path(url), replica, lease_ttl_s)


def _check_sqlite(url: str, replica: str, _lease_ttl_s: float) -> None:
    path = _path(url)
    if path.exists() or not path.parent.is_dir():
        SqliteStore(path).close()
        return
    # The server's user may be another one, who could not write a file of this user.
    trial = path.with_name(f".{path.name}-{replica}")
    try:
        SqliteStore(trial).close()
    finally:
        for left in path.parent.glob(f"{trial.name}*"):
            left.unlink()


def _copy_of_sqlite(url: str, destination: Path) -> Copied:
    return back_up(_path(url), destination)


def _path(url: str) -> Path:
    """The file that a URL names. Two or three slashes are accepted, as in SQLite's own URLs.

    Raises:
        StoreError: it names no file.
    """
    path = url.removeprefix("sqlite:")
    if path != url and path.startswith("//"):
        path = "/" + path.lstrip("/") if path.startswith("///") else path[2:]
    if not path:
        raise StoreError("the store names no file\nuse sqlite:PATH, such as sqlite:carousel.db")
    return Path(path).expanduser()


# -- Redis


def _open_redis(url: str, replica: str, lease_ttl_s: float) -> Store:
    _check_ttl(lease_ttl_s)
    try:
        from .redis import RedisStore
    except ModuleNotFoundError as error:
        raise no_driver(error) from None
    return RedisStore(url, replica, lease_ttl_s)


def _no_copy_of_redis(_url: str, _destination: Path) -> Copied:
    raise StoreError(
        "Redis makes its own copies\nuse BGSAVE or its append-only file, as in docs/guides/backup.md"
    )


def _check_ttl(lease_ttl_s: float) -> None:
    if not 0.1 <= lease_ttl_s < math.inf:
        raise StoreError(f"leases cannot last {lease_ttl_s:g} s\nset at least 0.1")


def _opened(opens: Open) -> Callable[[str, str, float], None]:
    """A check that opens and closes the store, for kinds where that leaves no trace."""
    return lambda url, replica, lease_ttl_s: opens(url, replica, lease_ttl_s).close()


_MEMORY = StoreKind(
    open=_open_memory,
    check=_opened(_open_memory),
    back_up=_no_copy_of_memory,
    look=lambda _url: look_at_memory(),
    share=_no_sharing_of_memory,
)
_SQLITE = StoreKind(
    open=_open_sqlite,
    check=_check_sqlite,
    back_up=_copy_of_sqlite,
    look=lambda url: look_at_sqlite(_path(url)),
    share=_share_sqlite,
)
_REDIS = StoreKind(
    open=_open_redis, check=_opened(_open_redis), back_up=_no_copy_of_redis, look=look_at_redis
)

FORMS = (
    Form("memory", "memory", _MEMORY),
    Form("sqlite:", "sqlite:PATH", _SQLITE),
    Form("redis://", "redis://HOST:PORT/0", _REDIS),
    Form("rediss://", "rediss://USER:PASSWORD@HOST:PORT/0", _REDIS),
    Form("unix://", "unix://PATH?db=0", _REDIS),
    Form("redis+cluster://", "redis+cluster://HOST1:PORT,HOST2:PORT", _REDIS),
    Form("rediss+cluster://", "rediss+cluster://USER:PASSWORD@HOST1:PORT,HOST2:PORT", _REDIS),
    Form("redis+sentinel://", "redis+sentinel://HOST1:PORT,HOST2:PORT/NAME", _REDIS),
    Form(
        "rediss+sentinel://", "rediss+sentinel://USER:PASSWORD@HOST1:PORT,HOST2:PORT/NAME", _REDIS
    ),
)
"""All forms of a store's URL, without the path of a SQLite file that ends in .db."""
