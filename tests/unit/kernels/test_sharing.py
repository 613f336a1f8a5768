"""Processes and threads that want the native library at the same moment, and files that are not whole."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from carousel_models.errors import KernelError
from carousel_models.kernels import compiling, library

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder for compiled libraries."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiling, "SHIPPED", tmp_path / "nothing")
    monkeypatch.setattr("shutil.which", lambda _name: "c++")
    folder = compiling._cache()
    assert folder is not None
    return folder


@pytest.fixture
def first_look() -> Iterator[None]:
    """A process that has not looked for a library yet."""
    library._first_found.cache_clear()
    yield
    library._first_found.cache_clear()


def output(command: list[str]) -> Path:
    return Path(command[command.index("-o") + 1])


def compiler(code: int, text: bytes, then: Callable[[], Any] = lambda: None) -> Run:
    """Writes `text` as its output."""

    def run(command: list[str], **_named: Any) -> subprocess.CompletedProcess[bytes]:
        output(command).write_bytes(text)
        then()
        return subprocess.CompletedProcess(command, code, b"", b"disk is full")

    return run


def test_two_that_compile_at_once_have_a_file_each(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two first processes of two containers have one number, and so have two threads."""
    both = threading.Barrier(2)
    monkeypatch.setattr(subprocess, "run", compiler(0, b"whole", lambda: both.wait(20)))
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(compiling.compile_into, cache, "avx2") for _ in range(2)]
        first, second = [each.result() for each in made]
    assert first == second
    assert first.read_bytes() == b"whole"
    assert list(cache.iterdir()) == [first]


def test_what_is_unfinished_never_has_the_librarys_name(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = cache / f"carousel-avx2-{compiling._digest('avx2')}.so"
    seen: list[bool] = []
    note = compiler(0, b"whole", lambda: seen.append(file.exists()))
    monkeypatch.setattr(subprocess, "run", note)
    assert compiling.compile_into(cache, "avx2") == file
    assert seen == [False]


@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_nothing_is_left_of_what_failed(
    cache: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def hang() -> None:
        raise subprocess.TimeoutExpired("c++", 120)

    stop = compiler(1, b"half") if how == "fails" else compiler(0, b"half", hang)
    monkeypatch.setattr(subprocess, "run", stop)
    with pytest.raises(KernelError):
        compiling.compile_into(cache, "avx2")
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("first_look")
def test_threads_wait_for_one_library(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, both = [], threading.Barrier(2)

    def find() -> library.Library:
        calls.append(1)
        with suppress(threading.BrokenBarrierError):
            both.wait(0.5)  # for another that looks as well
        raise KernelError("none here")

    monkeypatch.setattr(library, "find_library", find)
    with ThreadPoolExecutor(2) as pool:
        looks = [pool.submit(library.load_library) for _ in range(2)]
        assert [str(look.exception()) for look in looks] == ["none here"] * 2
    assert calls == [1]


@pytest.mark.parametrize("place", ["shipped", "cache"])
def test_a_kept_file_that_cannot_be_loaded_is_made_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    opened: list[bytes] = []

    class Opened:
        def __init__(self, path: str, _name: str) -> None:
            opened.append(Path(path).read_bytes())
            if opened[-1] != b"whole":
                raise OSError("file too short")

    folder = compiling.SHIPPED if place == "shipped" else cache
    folder.mkdir(exist_ok=True)
    (folder / f"carousel-avx2-{compiling._digest('avx2')}.so").write_bytes(b"half")
    monkeypatch.setattr(subprocess, "run", compiler(0, b"whole"))
    monkeypatch.setattr(library, "Library", Opened)
    library._open("avx2")
    assert opened == [b"half", b"whole"]
    assert "skipped" in caplog.text
    opened.clear()
    library._open("avx2")
    assert opened[-1] == b"whole"


def test_what_cannot_be_loaded_is_made_again_only_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    monkeypatch.setattr(subprocess, "run", compiler(0, b"no library", lambda: runs.append(1)))
    for n in (1, 2):
        with pytest.raises(KernelError, match="cannot be loaded"):
            library._open("avx2")
        assert len(runs) == n
    assert len(list(cache.iterdir())) == 1


@pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler here"
)
def test_a_library_without_its_end_is_not_loaded(tmp_path: Path) -> None:
    """The system maps such a file, and ends the process at the first page that is missing."""
    whole = compiling.compile_into(tmp_path, "avx2")
    assert compiling.is_whole(whole)
    contents, cut = whole.read_bytes(), tmp_path / "cut.so"
    for size in (0, 10, 64, 4096, len(contents) // 2, len(contents) - 1):
        cut.write_bytes(contents[:size])
        assert not compiling.is_whole(cut)
        with pytest.raises(OSError, match="not a whole library"):
            library.Library(str(cut), "avx2")
