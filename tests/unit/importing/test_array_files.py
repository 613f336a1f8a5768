"""Whatever the bytes of a `.npz` are, reading gives arrays or a PackageError."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from carousel_models.errors import PackageError
from carousel_models.importing.array_files import opened

HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }"


def npz(path: Path, record: bytes, name: str = "a.npy", how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path / "m.npz", "w", how) as archive:
        archive.writestr(name, record)
    return path / "m.npz"


def npy(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


def read_all(path: Path) -> None:
    with opened(path) as file:
        for name in file.names:
            file.read(name)


@pytest.mark.parametrize(
    "header",
    [
        HEADER % "(1099511627776,)",
        HEADER % f"({1 << 70},)",
        HEADER % "(-3,)",
        HEADER % "(3,)",
        "((((((((((",
        "",
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(PackageError, match=r"m\.npz is no whole file of arrays"):
        read_all(npz(tmp_path, npy(header)))


@pytest.mark.parametrize("name", ["a.npy", "a.txt"])
def test_records_that_are_no_arrays_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PackageError, match="is no array"):
        read_all(npz(tmp_path, b"hello", name))


def test_damaged_compressed_records_are_refused(tmp_path: Path) -> None:
    array = io.BytesIO()
    np.save(array, np.random.default_rng(0).random(100))
    path = npz(tmp_path, array.getvalue(), how=zipfile.ZIP_DEFLATED)
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), 3):
        data = bytearray(whole)
        data[place] ^= 0x5A
        path.write_bytes(data)
        try:
            read_all(path)
        except PackageError:
            refused += 1
    assert refused > 100


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_all(tmp_path / "m.npz")
