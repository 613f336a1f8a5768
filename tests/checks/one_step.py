"""Which functions of the server one happy step calls: `python one_step.py` prints them as JSON.

A server and a client share this process. A session on an Attach stream runs some steps first, so that nothing
is done for the first time. Then each function of `carousel_server` that any thread enters, or goes on with,
between a step and its output is noted. What belongs to the clock and not to the step falls into some of the
steps only, so a function counts if at least half of the steps entered it. Generated names such as `<lambda>`
do not count.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from importlib import import_module, util
from pathlib import Path
from types import FrameType
from typing import Any

STEPS = 40
_WARM_UP = 20
_PACKAGE = "/carousel_server/"

Function = tuple[str, str]
"""Its file below the package, and its qualified name."""


class Recorder:
    """Notes functions of the server in every thread that starts after it."""

    def __init__(self) -> None:
        self.on = False
        self.entered: set[Function] = set()
        threading.setprofile(self._see)
        sys.setprofile(self._see)

    def _see(self, frame: FrameType, event: str, _argument: object) -> None:
        if not self.on or event != "call":
            return
        code = frame.f_code
        _, package, file = code.co_filename.rpartition(_PACKAGE)
        if package and not code.co_name.startswith("<"):
            self.entered.add((file, code.co_qualname))


def functions_of_a_step() -> list[Function]:
    """The functions of the server that at least half of the steps entered."""
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        counts = asyncio.run(_counted(recorder, Path(folder)))
    return sorted(function for function, steps in counts.items() if steps >= STEPS / 2)


async def _counted(recorder: Recorder, folder: Path) -> Counter[Function]:
    from carousel_models import create

    create("m", cell="gru", hidden=8, input="features:4", output=2, dir=folder)
    server = _server(folder)
    await server.start()
    try:
        return await asyncio.get_running_loop().run_in_executor(
            None, _steps, recorder, f"127.0.0.1:{server.port}"
        )
    finally:
        await server.drain()
        await server.stop()


def _server(models: Path) -> Any:
    """The server's rooms were other ones before, so both places are tried."""
    room = "carousel_server"
    if util.find_spec(f"{room}.process") is not None:
        room += ".process"
    settings = import_module(f"{room}.config").Settings
    make: Callable[..., Any] = import_module(f"{room}.server").Server
    return make(
        settings(models=models, port=0, metrics_port=0, http_port="off", device="cpu", front_ends=0)
    )


def _steps(recorder: Recorder, target: str) -> Counter[Function]:
    import numpy as np

    import carousel

    counts: Counter[Function] = Counter()
    row = np.ones(4, np.float32)
    with carousel.Client(target) as client, client.session("m") as session:
        for number in range(_WARM_UP + STEPS):
            recorder.entered, recorder.on = set(), number >= _WARM_UP
            session.step(row)
            recorder.on = False
            counts.update(recorder.entered)
    return counts


if __name__ == "__main__":
    json.dump(functions_of_a_step(), sys.stdout)
