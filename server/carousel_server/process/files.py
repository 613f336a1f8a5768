"""Open files: each connection is one, and many systems allow a process 1,024 unless it asks for more."""

from __future__ import annotations

import sys

_WANTED = 65_536


def raise_file_limit() -> int:
    """Lets this process have as many open files as it may, up to 65,536. Returns the limit; 0 if unknown."""
    if sys.platform == "win32":
        return 0
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = resource.RLIM_INFINITY
    most = _WANTED if hard == infinite else min(_WANTED, hard)
    if soft != infinite and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return soft
