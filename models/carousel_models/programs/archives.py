"""Limits of the archives that programs lie in."""

from __future__ import annotations

import zipfile

from carousel_models.errors import PackageError

from .runtimes import MAX_PROGRAM_BYTES


def check_unpacked(archive: zipfile.ZipFile, where: str) -> None:
    """Checks that the records of an archive are not larger than a program may be.

    Raises:
        PackageError: they are. A small archive may hold a large record of zeros.
    """
    size = sum(record.file_size for record in archive.infolist())
    if size > MAX_PROGRAM_BYTES:
        raise PackageError(
            f"the records of {where} unpack to {size:,} bytes, more than the limit of {MAX_PROGRAM_BYTES:,}; "
            "serve a smaller model, or one with weights of 16 bits"
        )
