"""Places where a crash test can kill the server: `CAROUSEL_FAILPOINT=name`, or `name:n` for the n-th hit.

The process dies by SIGKILL, so nothing is flushed or sent.
"""

from __future__ import annotations

import os
import signal

FAILPOINTS = frozenset({"before_commit", "in_commit", "after_commit", "after_acquire"})
"""Before a group is committed, in the middle of the commit, after it but before any answer, and after a
session was acquired but before any answer.
"""


def _parse(text: str) -> tuple[str, int]:
    """The place in the variable ("" for none), and the number of the hit that kills the process."""
    name, _, count = text.partition(":")
    if name and name not in FAILPOINTS:
        raise ValueError(f"CAROUSEL_FAILPOINT names no place: {name}\nuse {sorted(FAILPOINTS)}")
    return name, int(count or 1)


_armed, _left = _parse(os.environ.get("CAROUSEL_FAILPOINT", ""))


def armed(name: str) -> bool:
    """True if the process will die at this place. A store can then split what would be one operation."""
    return name == _armed


def hit(name: str) -> None:
    """Kills the process if this is the place and the hit that the environment names."""
    global _left  # noqa: PLW0603 - one process, one place to die
    if name != _armed:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
