"""Copies the SQLite store's file: in the server that has it open, or here if no server runs."""

from __future__ import annotations

import json
import logging
import os
import socket
import sqlite3
import threading
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from . import sqlite_file
from .faults import StoreError

log = logging.getLogger(__name__)

_PAGES_AT_ONCE = 256
"""Pages in one piece of a copy. Commits run between two pieces."""
_PAUSE_S = 0.002
_ANSWER_WITHIN_S = 3600.0
_MOST_BYTES = 1 << 16
"""Longest request or answer, in bytes."""


@dataclass(frozen=True, slots=True)
class Copied:
    """A checked copy: the number of its sessions, and its size."""

    sessions: int
    bytes: int


class BackupDoor:
    """Serves requests for copies at `<path>.backup`, a socket that only the server's user can open.

    Only the process that has the file open can copy it, because its lock excludes all others. The copy runs
    between the commits, on the same connection. SQLite waits for an open transaction, and includes later
    writes.

    Args:
        path: of the store's file.
        db: its connection, which several threads may use.
    """

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self._path = door_path(path)
        self._db = db
        self._closing = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._path.unlink(missing_ok=True)  # of a killed server: this process has the file's lock
        try:
            self._socket.bind(str(self._path))
            self._path.chmod(0o600)
            self._socket.listen(4)
        except OSError as error:
            self._socket.close()
            log.warning("the server cannot be asked for copies: %s: %s", self._path, error)
            self._thread = None
            return
        self._thread = threading.Thread(target=self._serve, name="store-backup", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends a running copy and the thread. Idempotent."""
        self._closing.set()
        if self._thread is None:
            return
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._thread = None
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                link, _ = self._socket.accept()
            except OSError:
                return  # closed
            with closing(link), suppress(OSError):
                link.settimeout(10.0)
                link.sendall(json.dumps(self._answer(link.recv(_MOST_BYTES))).encode() + b"\n")

    def _answer(self, request: bytes) -> dict[str, object]:
        try:
            destination = Path(json.loads(request)["destination"])
            copied = copy(self._db, destination, self._closing)
        except StoreError as error:
            return {"error": str(error)}
        except (ValueError, KeyError, TypeError):
            return {"error": "the request cannot be read\nuse carousel store backup"}
        log.info("copied %d sessions to %s", copied.sessions, destination)
        return asdict(copied)


def door_path(path: Path) -> Path:
    """The socket of the server that has the file open."""
    return path.with_name(path.name + ".backup")


def back_up(path: Path, destination: Path) -> Copied:
    """Copies a store's file, whether or not a server has it open.

    Args:
        path: the store's file.
        destination: a new file. The server writes it, if one runs.

    Raises:
        StoreError: there is no store, or the destination exists or cannot be written.
    """
    if not path.is_file():
        raise StoreError(f"there is no store at {path}\nname the file of the setting store")
    destination = destination.absolute()
    try:
        lock = sqlite_file.lock(path)
    except StoreError as in_use:
        if _is_shared(path):
            return _copy_beside(path, destination)
        return _ask_server(path, destination, in_use)
    with lock, closing(sqlite_file.connect(path)) as db:
        return copy(db, destination)


def _is_shared(path: Path) -> bool:
    """True if the servers that have the file open share it."""
    with sqlite_file.open_turns(path) as turns, sqlite_file.turn(turns):
        try:
            sqlite_file.lock(path, shared=True).close()
        except StoreError:
            return False
        return True


def _copy_beside(path: Path, destination: Path) -> Copied:
    """Copies a file that several servers share, by a connection of its own.

    All pages are one piece. SQLite would begin again whenever another process has written.
    """
    with sqlite_file.open_turns(path) as turns:
        with sqlite_file.turn(turns):
            db = sqlite_file.connect(path, shared=True, first=False)
        try:
            return copy(db, destination, pages=-1)
        finally:
            with sqlite_file.turn(turns):
                db.close()


def copy(
    db: sqlite3.Connection,
    destination: Path,
    stop: threading.Event | None = None,
    pages: int = _PAGES_AT_ONCE,
) -> Copied:
    """Writes a copy to a temporary file, checks it, and moves it to `destination`. A failure leaves no file.

    `pages` is the size of one piece, and -1 is the whole file.

    Raises:
        StoreError: the destination exists or cannot be written, or `stop` was set.
    """
    part = destination.with_name(destination.name + ".part")
    try:
        if not destination.parent.is_dir():
            raise StoreError(
                f"there is no folder {destination.parent}\nmake it, or name another one"
            )
        if destination.exists():
            raise StoreError(f"{destination} exists already\nname a new file")
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            copied = _copied(db, part, stop or threading.Event(), pages)
            os.link(part, destination)  # unlike a rename, it fails if the file exists
        finally:
            for end in ("", "-journal", "-wal", "-shm"):
                part.with_name(part.name + end).unlink(missing_ok=True)
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise StoreError(
            f"cannot write {destination}: {why}\n"
            "name a file in a folder with room, which the server can write"
        ) from error
    return copied


def _copied(db: sqlite3.Connection, part: Path, stop: threading.Event, pages: int) -> Copied:
    def go_on(*_: int) -> None:
        if stop.is_set():
            raise StoreError(
                "the server is shutting down, so no copy was made\ntry again when it runs"
            )

    with closing(sqlite3.connect(part, isolation_level=None)) as target:
        db.backup(target, pages=pages, progress=go_on, sleep=_PAUSE_S)
        target.execute("PRAGMA journal_mode = DELETE")  # one complete file
        found = target.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(f"the copy is damaged: {found}")
        sessions = int(target.execute("SELECT count(*) FROM sessions").fetchone()[0])
    with part.open("rb") as file:
        os.fsync(file.fileno())
        return Copied(sessions, os.fstat(file.fileno()).st_size)


def _ask_server(path: Path, destination: Path, in_use: StoreError) -> Copied:
    """Asks the server that has the file open to copy it."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as link:
        link.settimeout(_ANSWER_WITHIN_S)
        try:
            link.connect(str(door_path(path)))
            link.sendall(json.dumps({"destination": str(destination)}).encode())
            said = b""
            while not said.endswith(b"\n") and (more := link.recv(_MOST_BYTES)):
                said += more
            answer = json.loads(said)
        except (OSError, ValueError):
            cause = str(in_use).splitlines()[0]
            raise StoreError(
                f"{cause}, which does not copy it for this user\n"
                "run it as the server's user, where the server runs"
            ) from None
    if "error" in answer:
        raise StoreError(str(answer["error"]))
    return Copied(int(answer["sessions"]), int(answer["bytes"]))
