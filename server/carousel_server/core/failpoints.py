"""Places where a test can kill the server: `CAROUSEL_FAILPOINT=name`, or `name:n` for the n-th time there.

For crash tests only. The process dies by SIGKILL, as if power to it were cut: nothing is flushed or told.
"""

from __future__ import annotations

import os
import signal

FAILPOINTS = frozenset({"before_commit", "in_commit", "after_commit", "after_acquire"})
"""Every place: before a group is committed, halfway through it, after it and before anybody is told, and
after a session was acquired and before anybody is told.
"""


def _parse(text: str) -> tuple[str, int]:
    """What the variable says: a place ("" for none), and at which of its hits to die."""
    name, _, count = text.partition(":")
    if name and name not in FAILPOINTS:
        raise ValueError(f"CAROUSEL_FAILPOINT names no place: {name}\nuse {sorted(FAILPOINTS)}")
    return name, int(count or 1)


_armed, _left = _parse(os.environ.get("CAROUSEL_FAILPOINT", ""))


def armed(name: str) -> bool:
    """True if the process is to die at this place, so that what has no middle may be given one."""
    return name == _armed


def hit(name: str) -> None:
    """The process is at this place now; it goes no further if the environment says so."""
    global _left  # noqa: PLW0603 - one process, one place to die
    if name != _armed:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
