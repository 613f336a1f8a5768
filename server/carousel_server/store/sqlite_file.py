"""Opens the SQLite store's file and checks that it is locked, undamaged, and of a known version."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .faults import StoreError

_OWN = 0o600
"""Mode of the files. Only the server's user may read sessions, which are secrets of their tenants."""

VERSION = 1
"""Version of the schema, in `PRAGMA user_version`."""

_BUSY_S = 1.0
"""How long SQLite waits for a lock of its own."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_LEAST_BYTES = 1 << 18
_APPLICATION_ID = 0x4352534C  # "CRSL", the mark of our files
_MAGIC, _HEAD_BYTES = b"SQLite format 3\0", 100
_CHECK_UP_TO_BYTES = 1 << 30
"""Greatest file that is checked as a whole at the start. Each snapshot has a checksum of its own."""

_WHOLE = "whole_epoch INTEGER NOT NULL DEFAULT 0"
"""A column that files of older servers lack. These ignore it, since no epoch of theirs is the same again."""

# Held sessions are in the unique index only, so that a commit writes one row and no other index.
_SCHEMA = f"""
CREATE TABLE sessions (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    held INTEGER NOT NULL,
    last_used_unix_s REAL NOT NULL,
    idle_ttl_s REAL NOT NULL,
    model TEXT NOT NULL,
    durability INTEGER NOT NULL,
    seed TEXT NOT NULL,
    created_at_unix_s REAL NOT NULL,
    snapshot BLOB NOT NULL,
    {_WHOLE},
    UNIQUE (tenant, id)
);
CREATE INDEX free_by_expiry ON sessions (last_used_unix_s + idle_ttl_s) WHERE held = 0;
CREATE TABLE ended (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    reason TEXT NOT NULL,
    at_unix_s REAL NOT NULL,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;
CREATE INDEX ended_by_time ON ended (at_unix_s);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""


def check_place(path: Path) -> None:
    """Checks that a file can be at a path.

    Raises:
        StoreError: it is a folder, or its folder does not exist.
    """
    if path.is_dir():
        raise StoreError(f"{path} is a folder\nname a file in it: sqlite:{path}/carousel.db")
    if not path.parent.is_dir():
        raise StoreError(f"the folder of {path} does not exist\nmake it: mkdir -p {path.parent}")


def check_file(path: Path) -> None:
    """Checks the first bytes of a file, without SQLite. Another process may use it.

    Raises:
        StoreError: it is not a store, or has another version.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        return  # a new file: the schema is still in the log, or was never written
    if not head.startswith(_MAGIC) or len(head) < _HEAD_BYTES:
        raise _damaged(path, "it does not begin as a file of SQLite")
    (version,) = struct.unpack_from(">I", head, 60)
    (application,) = struct.unpack_from(">I", head, 68)
    if application or version:
        _check_marks(path, application, version)


def _open_beside(path: Path, end: str) -> IO[str]:
    """Opens a file of ours beside the store's, for its owner only. It is made if it does not exist.

    Raises:
        StoreError: the folder does not exist, or cannot be written.
    """
    beside = path.with_name(path.name + end)
    try:
        check_place(path)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.fdopen(os.open(beside, flags, _OWN), "a+", encoding="ascii")
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise _no_space(path) from None
        raise StoreError(
            f"cannot write {beside}: {error.strerror}\n"
            "give the server's user the right to write there, or name another file"
        ) from None


def lock(path: Path, *, shared: bool = False) -> IO[str]:
    """Locks `<path>.lock` while the returned file is open. It has the id of this process.

    `shared` allows other processes that lock it with `shared` too.

    Raises:
        StoreError: another process has the lock, or the folder cannot be written.
    """
    file = _open_beside(path, ".lock")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = _holder(file, f"{path}.lock")
        file.close()
        raise StoreError(
            f"{path} is in use by {holder}\nstop that server, or name another file for this one"
        ) from None
    try:
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
    except OSError as error:
        with suppress(OSError):  # buffered data cannot be written either
            file.close()
        raise _no_space(path) if error.errno in _NO_SPACE else _unwritable(path, error) from None
    return file


def _holder(file: IO[str], name: str) -> str:
    """The process that has the lock, for people. Of several that share it, the last one may have ended."""
    process = file.read().strip()
    try:
        os.kill(int(process), 0)
    except PermissionError:
        pass  # it is another user's
    except (ValueError, OverflowError, OSError):
        return f"another server (fuser {name} shows its process)"
    return f"process {process}"


def open_turns(path: Path) -> IO[str]:
    """Opens the file on which the processes that share a store take turns. Raises as `lock`."""
    return _open_beside(path, ".turn")


@contextmanager
def turn(turns: IO[str]) -> Iterator[None]:
    """Waits for the turn to write to a shared file. The kernel frees it if this process is killed.

    SQLite before 3.51.3 can damage a file if two connections write or checkpoint at the same moment. So
    each of them, and each opening and closing of the file, has the turn.
    """
    fcntl.flock(turns, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(turns, fcntl.LOCK_UN)


def connect(path: Path, *, shared: bool = False, first: bool = True) -> sqlite3.Connection:
    """Opens the connection, and makes the schema in a new file.

    Args:
        path: the file.
        shared: other processes may open it too. They take turns to write, by a lock of their own.
        first: no other process has it open, so former holders of sessions have ended.

    Raises:
        StoreError: the file is not a store, is damaged, or has another version.
    """
    try:
        make_private(path)
    except OSError as error:
        raise _no_space(path) if error.errno in _NO_SPACE else _unwritable(path, error) from None
    try:
        db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise _explained(path, error) from error
    try:
        if not shared:
            # Before anything is read. No other program can then use the file, and the index of the log is
            # in the memory of this process.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
        _prepare(db, path, first)
    except sqlite3.Error as error:
        db.close()
        raise _explained(path, error) from error
    except StoreError:
        db.close()
        raise
    return db


def make_private(path: Path) -> None:
    """Makes the file if it does not exist, and makes it and its log readable for their owner only.

    SQLite gives a new log the mode of its file. Files of an older version may have other modes.

    Raises:
        OSError: the file cannot be opened or made.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _OWN))
    for one in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", ".lock"))):
        if one.exists() and one.stat().st_mode & 0o077:
            with suppress(PermissionError):  # only its owner can change the mode
                one.chmod(_OWN)


def _prepare(db: sqlite3.Connection, path: Path, first: bool) -> None:
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    version = _known_version(db, path)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA fullfsync = ON")  # a real fsync on macOS; no effect elsewhere
    db.execute("PRAGMA wal_autocheckpoint = 2000")
    db.execute(f"PRAGMA journal_size_limit = {64 << 20}")
    db.execute("PRAGMA cache_size = -16384")  # KiB
    if version == 0:
        db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
    elif first and path.stat().st_size <= _CHECK_UP_TO_BYTES:
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise _damaged(path, found)
    columns = {column for _, column, *_ in db.execute("PRAGMA table_info(sessions)")}
    if _WHOLE.partition(" ")[0] not in columns:
        db.execute(f"ALTER TABLE sessions ADD COLUMN {_WHOLE}")
    if first:
        db.execute("UPDATE sessions SET held = 0 WHERE held <> 0")


def _known_version(db: sqlite3.Connection, path: Path) -> int:
    """The schema's version. 0 for an empty file."""
    application = int(db.execute("PRAGMA application_id").fetchone()[0])
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if application != _APPLICATION_ID:
        if version or db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            _check_marks(path, application, version)
        return 0
    _check_marks(path, application, version)
    return version


def _check_marks(path: Path, application: int, version: int) -> None:
    """Checks the two marks of a file that is not empty."""
    if application != _APPLICATION_ID:
        raise StoreError(f"{path} is another program's database\nname another file")
    if version != VERSION:
        raise StoreError(
            f"{path} has version {version}, and this server can read {VERSION}\n"
            "run the version of Carousel that wrote it, or name another file"
        )


def _explained(path: Path, error: sqlite3.Error) -> StoreError:
    """The StoreError for an error of SQLite, with its cause and fix."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreError(f"{path} is open in another program\nclose it there")
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return _damaged(path, str(error))
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR_WRITE")) or (
        name.startswith("SQLITE_IOERR") and not _has_room(path)
    ):
        return _no_space(path)
    return StoreError(
        f"cannot open {path}: {error}\n"
        "give the server's user the right to read and write it, or name another file"
    )


def _has_room(path: Path) -> bool:
    """True if the disk has room for the smallest store."""
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return True
    return disk.f_bavail * disk.f_frsize >= _LEAST_BYTES


def _no_space(path: Path) -> StoreError:
    return StoreError(
        f"no space is left for {path}\nfree some space, or name a file on another disk"
    )


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot open {path}: {error.strerror}\n"
        "give the server's user the right to read and write it, or name another file"
    )


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(
        f"{path} is not a store, or is damaged: {' '.join(what.split())}\n"
        "restore it from a copy, or move it away to start with an empty one"
    )
