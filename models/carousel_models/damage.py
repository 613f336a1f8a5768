"""What Python's readers of archives raise for damaged files. No torch."""

from __future__ import annotations

import errno
import lzma
import zipfile
import zlib

UNREADABLE: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,  # another way to compress
    RuntimeError,  # a password is needed
    EOFError,
    ValueError,
    OSError,
)
"""Errors of reading a zip archive."""


def is_of_the_system(error: Exception) -> bool:
    """True if the file could not be read at all. Damage can make a reader seek to before its start."""
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
