"""One of several replicas as a program: `python -m carousel_server.process.replica NUMBER PARENT`.

The supervisor writes the settings to stdin, as a line of JSON, so that no secret is on a command line. The
process ends with the supervisor, whose process id is PARENT.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence

from .config import Settings
from .main import EXIT_FAILED, serve_one

_STDIN = 0
_PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that this process gets when its parent ends."""


def main(arguments: Sequence[str]) -> int:
    """Serves until SIGTERM. Returns the exit code of the server."""
    number, parent = (int(one) for one in arguments)
    _end_with(parent)
    with os.fdopen(_STDIN, "rb", buffering=0, closefd=False) as stdin:
        line = stdin.readline()
    if not line:
        return EXIT_FAILED  # the supervisor has ended
    threading.Thread(target=_end_with_stdin, name="supervisor", daemon=True).start()
    return serve_one(Settings(**json.loads(line)), replica=number)


def _end_with(parent: int) -> None:
    """Makes the kernel end this process with its parent, also while it is stopped or stuck."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(EXIT_FAILED)


def _end_with_stdin() -> None:
    """Ends this process when the supervisor's end of stdin is closed. Systems other than Linux need it."""
    while os.read(_STDIN, 1):
        pass
    os._exit(EXIT_FAILED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
