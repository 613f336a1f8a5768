"""What every process of the server runs with: its event loop, its limit of open files, its version."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from typing import Any

WANTED_FILES = 65_536
"""Each connection is an open file. Many systems allow a process 1,024 of them by default."""

_SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the interpreter while another one waits.

An engine asks for it again after each of NumPy's larger operations. With Python's 5 ms a busy event loop
delays a tick by tens of milliseconds.
"""


def run(main: Coroutine[Any, Any, int]) -> int:
    """Runs a coroutine to its end, on uvloop where that is installed.

    With uvloop the same core handles a third more messages a second.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        from uvloop import new_event_loop
    except ImportError:
        new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
    else:
        new_loop = new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)


def raise_file_limit() -> int:
    """Raises this process's limit of open files as far as allowed, to 65,536 at most.

    Returns the limit, or 0 where it is unknown.
    """
    if sys.platform == "win32":
        return 0
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = resource.RLIM_INFINITY
    most = WANTED_FILES if hard == infinite else min(WANTED_FILES, hard)
    if soft != infinite and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return soft


def version() -> str:
    """The version of the installed distribution, such as "0.1.0". "unknown" if it is not installed."""
    try:
        return distribution_version("carousel-serving")
    except PackageNotFoundError:
        return "unknown"
