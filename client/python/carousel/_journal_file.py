"""A journal's file: one process at a time, appended by single writes, replaced by renaming."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from ._core.journal import Journal
from ._error_bases import JournalError

JournalPath = str | os.PathLike[str]

_MOST_TRIES = 10
"""Most attempts to lock the file, because another process can replace it between open and lock."""


class JournalFile:
    """The file of an open journal, locked against all others."""

    def __init__(self, path: Path, *, fsync: bool) -> None:
        """Opens or creates the file.

        Raises:
            JournalError: the file is in use.
            OSError: it cannot be opened.
        """
        self._path = path
        self._fsync = fsync
        self._fd = self._locked()

    def read(self) -> bytes:
        """All bytes of the file."""
        size = os.fstat(self._fd).st_size
        data = b""
        while len(data) < size and (more := os.pread(self._fd, size - len(data), len(data))):
            data += more
        return data

    def append(self, data: bytes) -> None:
        """Appends bytes. Raises OSError, and then the file is as before."""
        start = os.fstat(self._fd).st_size
        if os.write(self._fd, data) < len(data):
            with suppress(OSError):
                os.ftruncate(self._fd, start)
            raise OSError(f"the disk of {self._path} is full")
        if self._fsync:
            os.fsync(self._fd)

    def replace(self, data: bytes) -> None:
        """Replaces the file by a new one. Raises OSError, and then the file is as before."""
        beside = self._path.with_name(self._path.name + ".new")
        fd = os.open(
            beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.write(fd, data) < len(data):
                raise OSError(f"the disk of {self._path} is full")
            if self._fsync:
                os.fsync(fd)
            beside.replace(self._path)
        except OSError:
            os.close(fd)
            with suppress(OSError):
                beside.unlink()
            raise
        os.close(self._fd)
        self._fd = fd
        if self._fsync:
            self._sync_folder()

    def close(self) -> None:
        """Closes and unlocks the file."""
        os.close(self._fd)

    def _sync_folder(self) -> None:
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _locked(self) -> int:
        for _ in range(_MOST_TRIES):
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_ino == self._path.stat().st_ino:
                    return fd
            except FileNotFoundError:
                pass
            except BlockingIOError:
                os.close(fd)
                raise JournalError(f"{self._path} is in use by another session") from None
            os.close(fd)
        raise JournalError(f"{self._path} was replaced each time it was opened")


def open_journal(path: JournalPath, *, fsync: bool = False) -> Journal:
    """Opens the journal in a file, or a new one if there is no file.

    Raises:
        JournalError: the file is in use, damaged, not a journal, or cannot be opened.
    """
    try:
        file = JournalFile(Path(path), fsync=fsync)
    except OSError as error:
        if isinstance(error, JournalError):
            raise
        raise JournalError(f"{os.fspath(path)} cannot be opened: {error.strerror}") from None
    try:
        return Journal(file, file.read())
    except JournalError as error:
        file.close()
        raise JournalError(f"{os.fspath(path)}: {error.message}") from None
