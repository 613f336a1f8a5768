"""Compiles and loads the transport, and wraps its C interface."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

log = logging.getLogger("carousel.wire")

SOURCES = Path(__file__).parent
SHIPPED = SOURCES / "compiled"
"""Folder of a library that was compiled before, as in the image."""

_UNITS = ("tls.cpp", "connection.cpp", "transport.cpp", "infer.cpp", "blocks.cpp")
_HEADERS = ("records.h", "socket.h", "connection.h", "proto.h")
_FLAGS = ("-std=c++20", "-O2", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden")
_LIBRARIES = {"libnghttp2": "libnghttp2-dev", "openssl": "libssl-dev"}
"""What is linked, by its name for pkg-config, and Debian's package that has it."""

_QUICK = ("transport_take", "transport_do", "infer_learn", "infer_read", "blocks_read")
"""Functions that keep the interpreter, since to give it up and get it back takes longer than they do."""

_MOST_S = 300
_ERROR_ROOM = 512


class NativeError(RuntimeError):
    """There is no native transport here; the message says why, and what mends it."""


@dataclass(frozen=True, slots=True)
class NativeLimits:
    """`struct Limits` of connection.h. Times in milliseconds."""

    message_bytes: int
    calls_per_connection: int
    connections: int
    handshake_ms: int = 10_000
    idle_ms: int = 600_000
    keepalive_ms: int = 30_000
    keepalive_timeout_ms: int = 10_000
    least_ping_ms: int = 5_000
    stalled_ms: int = 60_000
    linger_ms: int = 2_000


@dataclass(frozen=True, slots=True)
class NativeCounters:
    """`struct Counters` of connection.h."""

    connections: int
    turned_away: int
    refused_calls: int
    bad_connections: int
    too_many_pings: int
    calls: int


class NativeEndpoint:
    """One transport. `take` and `do` are for one thread, the event loop's."""

    def __init__(self, limits: NativeLimits) -> None:
        """Raises NativeError where there is no library."""
        self._library = load()
        values = astuple(limits)
        self._handle = self._library.transport_make((ctypes.c_int64 * len(values))(*values))
        self._records = ctypes.POINTER(ctypes.c_uint8)()
        self._closed = False
        self._counted = NativeCounters(0, 0, 0, 0, 0, 0)

    def listen(self, host: str, port: int, *, shared: bool) -> int:
        """Listens on all addresses of a name; returns the port. Raises OSError."""
        error = ctypes.create_string_buffer(_ERROR_ROOM)
        bound = self._library.transport_listen(
            self._handle, host.strip("[]").encode(), port, int(shared), error, _ERROR_ROOM
        )
        if not bound:
            raise OSError(error.value.decode())
        return int(bound)

    def use_tls(self, cert: bytes, key: bytes, client_ca: bytes) -> None:
        """New connections get these PEM texts. Raises OSError if they cannot be used."""
        if self._closed:
            return
        error = ctypes.create_string_buffer(_ERROR_ROOM)
        if self._library.transport_tls(self._handle, cert, key, client_ca, error, _ERROR_ROOM):
            raise OSError(error.value.decode())

    def start(self) -> None:
        """Starts the transport's thread."""
        self._library.transport_start(self._handle)

    @property
    def descriptor(self) -> int:
        """A file descriptor that is readable while there are events."""
        return int(self._library.transport_descriptor(self._handle))

    def take(self) -> bytes:
        """Records of what has happened since the last time. Nothing after `close`."""
        if self._closed:
            return b""
        size = self._library.transport_take(self._handle, ctypes.byref(self._records))
        return ctypes.string_at(self._records, size)

    def do(self, records: bytes) -> None:
        """Gives the transport records of what it should do. After `close`, nothing is done."""
        if self._closed:
            return
        self._library.transport_do(self._handle, records, len(records))

    def counters(self) -> NativeCounters:
        """Counts since the start; after `close`, those of its end."""
        if not self._closed:
            self._count()
        return self._counted

    def _count(self) -> None:
        values = (ctypes.c_int64 * len(NativeCounters.__slots__))()
        self._library.transport_counters(self._handle, values)
        self._counted = NativeCounters(*values)

    def retire(self) -> None:
        """Takes no new connections and calls."""
        if self._closed:
            return
        self._library.transport_retire(self._handle)

    def close(self) -> None:
        """Ends all connections and the thread; blocks for `linger_ms` at most. Later calls do nothing."""
        if self._closed:
            return
        self._closed = True
        self._library.transport_stop(self._handle)
        self._count()
        self._library.transport_free(self._handle)


@cache
def load() -> ctypes.CDLL:
    """The library, compiled if need be.

    Raises:
        NativeError: it cannot be compiled or loaded here.
    """
    try:
        file = str(_file())
        library, quick = ctypes.CDLL(file), ctypes.PyDLL(file)
        return _declared(library, quick)
    except (OSError, AttributeError) as error:  # the latter for a file that lacks a function
        raise NativeError(f"the native transport cannot be loaded: {error}") from error


def _declared(library: ctypes.CDLL, quick: ctypes.PyDLL) -> ctypes.CDLL:
    """The library with the types of its functions."""
    integer, pointer, text = ctypes.c_int64, ctypes.c_void_p, ctypes.c_char_p
    functions = {
        "transport_make": (pointer, (pointer,)),
        "transport_listen": (integer, (pointer, text, integer, integer, pointer, integer)),
        "transport_tls": (integer, (pointer, text, text, text, pointer, integer)),
        "transport_start": (None, (pointer,)),
        "transport_descriptor": (integer, (pointer,)),
        "transport_take": (integer, (pointer, pointer)),
        "transport_do": (None, (pointer, text, integer)),
        "transport_counters": (None, (pointer, pointer)),
        "transport_retire": (None, (pointer,)),
        "transport_stop": (None, (pointer,)),
        "transport_free": (None, (pointer,)),
        "infer_make": (pointer, ()),
        "infer_learn": (integer, (pointer, text, integer)),
        "infer_read": (None, (pointer, text, pointer, pointer, integer, pointer)),
        "infer_free": (None, (pointer,)),
        "blocks_read": (None, (text, pointer, pointer, integer, pointer)),
    }
    for name, (result, arguments) in functions.items():
        function = getattr(quick if name in _QUICK else library, name)
        function.restype, function.argtypes = result, arguments
        setattr(library, name, function)
    return library


def missing() -> str:
    """Why the transport cannot be compiled here, and what mends it; empty if it can."""
    lacking = {
        program: package
        for program, package in {"g++": "g++", "pkg-config": "pkg-config"}.items()
        if shutil.which(program) is None
    }
    lacking |= {
        name: package
        for name, package in _LIBRARIES.items()
        if "pkg-config" in lacking or not _has_library(name)
    }
    if not lacking:
        return ""
    return f"{', '.join(lacking)} not found: apt-get install {' '.join(lacking.values())}"


def compile_into(folder: Path, extra: Sequence[str] = ()) -> Path:
    """Compiles the library, with `extra` flags of the compiler; returns its file.

    Raises:
        NativeError: something is missing, the compiler fails, or the folder cannot be written.
    """
    if reason := missing():
        raise NativeError(reason)
    target = folder / _file_name()
    log.info("the native transport is compiled once, which takes some seconds, into %s", target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=folder) as own:
            unfinished = Path(own) / target.name
            linked = _run("pkg-config", "--cflags", "--libs", *_LIBRARIES).split()
            units = [str(SOURCES / unit) for unit in _UNITS]
            _run("g++", *_FLAGS, *extra, *units, "-o", str(unfinished), *linked)
            unfinished.replace(target)
    except (OSError, subprocess.SubprocessError) as error:
        raise NativeError(f"the native transport cannot be compiled: {error}") from error
    return target


def outlook() -> str:
    """The transport that `auto` takes here, for people. Nothing is compiled or loaded."""
    try:
        if any(file.exists() for file in _files()):
            return "native"
        reason = missing()
    except (OSError, NativeError) as error:
        reason = str(error)
    return f"python; {reason}" if reason else "native, compiled at the first start"


def _file() -> Path:
    files = _files()
    return next((file for file in files if file.exists()), None) or compile_into(files[-1].parent)


def _files() -> Sequence[Path]:
    """Where the library may be. In the last one's folder it is compiled."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "carousel"
    except RuntimeError as error:  # a user without a home, as in some containers
        raise NativeError(
            f"no folder for the native transport: {error} Set XDG_CACHE_HOME to one that can be written"
        ) from error
    return [folder / _file_name() for folder in (SHIPPED, cache)]


def _file_name() -> str:
    digest = hashlib.sha256(" ".join(_FLAGS).encode())
    for source in (*_HEADERS, *_UNITS):
        digest.update((SOURCES / source).read_bytes())
    return f"transport-{digest.hexdigest()[:12]}.so"


def _has_library(name: str) -> bool:
    return subprocess.run(["pkg-config", "--exists", name], check=False).returncode == 0


def _run(*command: str) -> str:
    """Runs a tool; returns what it printed. Raises NativeError."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_MOST_S)
    if done.returncode:
        raise NativeError(f"{command[0]} fails: {done.stderr.strip()[:300]}")
    return done.stdout
