"""The loop's thread stands still between a Bind and its answer, while the other threads go on.

So an engine may bind a session and give it up before the wire has taken the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from carousel_server.core.ports import Bind, Command

if TYPE_CHECKING:
    from .server import Process

CHANCE = 0.4
"""In so many schedules the loop's thread may be stopped. Only those in which it is are changed by it."""

_STOP_CHANCE, _ROUNDS = 0.8, 3


def stop_after_binds(process: Process) -> None:
    """Lets the engine and the store run when the loop's thread has submitted a Bind, for some of them."""
    chance, submit = process.world.threads, process.engine.submit

    def submit_and_stop(command: Command) -> None:
        submit(command)
        if process.on_loop and isinstance(command, Bind) and chance.random() < _STOP_CHANCE:
            for _ in range(_ROUNDS):
                process.run_threads()

    process.engine.submit = submit_and_stop  # type: ignore[method-assign]
