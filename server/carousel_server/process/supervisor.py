"""Runs the replicas of one machine, a process each, and starts again one that has died.

The supervisor listens on no address and knows no session. Each replica checks its own settings, drains by
itself on SIGTERM, and ends with the supervisor.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from .advertise import advertised
from .config import Settings
from .replica_process import Facts, Program, ReplicaProcess, is_alive, program
from .runtime import version
from .supervised import Pace, Replica, said

log = logging.getLogger(__name__)

_FAILED = 1


def supervise(plan: Sequence[Settings]) -> int:
    """Runs a replica for each of the settings until SIGTERM or SIGINT. Returns the exit code.

    SIGHUP restarts them one by one. The code is that of a replica that ended before all were ready. Else it
    is 0 if all have ended in good order, and 1 if one was given up or had to be killed at the end.
    """
    if not plan[0].store:
        log.warning("no store is set: a session ends with its replica; set store=sqlite:FILE")

    async def run() -> int:
        return await Supervisor(plan, program(), Pace()).run()

    return asyncio.run(run())


class Supervisor:
    """The replicas and their processes. Used on the event loop."""

    def __init__(self, plan: Sequence[Settings], command: Program, pace: Pace) -> None:
        self._replicas = [Replica(number, one, pace) for number, one in enumerate(plan)]
        self._command = command
        self._pace = pace
        self._drain_s = plan[0].drain_timeout_s
        self._ending = asyncio.Event()
        # All replicas were ready at a time. Before that, the end of one ends all.
        self._began = False
        self._code = 0
        # Tasks beside the keepers of the replicas.
        self._tasks: set[asyncio.Task[None]] = set()
        self._rolling: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """See `supervise`."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._restart_all)
        first, *others = self._replicas
        keeper = asyncio.create_task(self._keep(first))
        # The first one starts alone. A bad setting is reported once, and compiled code is there for all.
        ready = self._beside(first.was_ready.wait())
        await asyncio.wait({keeper, ready}, return_when=asyncio.FIRST_COMPLETED)
        try:
            await asyncio.gather(keeper, *map(self._keep, others))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        return self._code

    async def _keep(self, one: Replica) -> None:
        """Runs one life of a replica after the other."""
        while not self._ending.is_set():
            code = await self._live(one)
            if self._ending.is_set():
                return
            if not self._began:
                log.error("replica %d has ended (%s) before all were ready", one.number, said(code))
                self._code = code if code > 0 else _FAILED
                self._end()
                return
            if one.restarting:
                one.restarting = False
                continue
            pause_s = one.died(time.monotonic())
            if pause_s is None:
                self._give_up(one, code)
                return
            log.error(
                "replica %d on port %d has ended (%s): it is started again in %g s",
                one.number, one.settings.port, said(code), pause_s,
            )  # fmt: skip
            await _wait_at_most(self._ending, pause_s)

    async def _live(self, one: Replica) -> int:
        """One life of a replica. Returns the exit code."""
        try:
            life = await ReplicaProcess.start(one.number, one.settings, self._command)
        except OSError as error:
            log.error("replica %d cannot be started: %s", one.number, error)  # noqa: TRY400 - no defect
            one.began(None, time.monotonic())
            return _FAILED
        one.life = life
        if self._ending.is_set():
            life.signal(signal.SIGTERM)
        facts = await life.ready()
        one.began(facts, time.monotonic())
        if facts is None:
            code = await life.ended()
        else:
            self._tell_ready(one, life)
            check = self._beside(self._check(one, life))
            code = await life.ended()
            check.cancel()
            if self._ending.is_set() and code != 0:
                log.error("replica %d has ended (%s)", one.number, said(code))
                self._code = self._code or _FAILED
        one.life = None
        return code

    def _give_up(self, one: Replica, code: int) -> None:
        log.error(
            "replica %d cannot be started: it has ended %d times, at last with %s; see its log for the cause",
            one.number, self._pace.most_failures, said(code),
        )  # fmt: skip
        self._code = _FAILED
        if all(other.given_up for other in self._replicas):
            self._end()

    async def _check(self, one: Replica, life: ReplicaProcess) -> None:
        """Kills a replica that no longer answers. One that is stopped could hold the store's turn."""
        settings, pace = one.settings, self._pace
        silent = 0
        while silent < pace.most_silent:
            await asyncio.sleep(pace.check_every_s)
            alive = await asyncio.to_thread(
                is_alive, settings.metrics_host, settings.metrics_port, pace.check_within_s
            )
            silent = 0 if alive else silent + 1
        if not self._ending.is_set() and not one.restarting:
            log.error("replica %d has missed %d checks: it is killed", one.number, silent)
            life.signal(signal.SIGKILL)

    # -- signals

    def _end(self) -> None:
        """Drains all replicas. The second time, they end at once."""
        again = self._ending.is_set()
        self._ending.set()
        within_s = self._pace.end_within_s + (0.0 if again else self._drain_s)
        for one in self._replicas:
            if one.life is not None:
                one.life.signal(signal.SIGTERM)
        self._beside(self._kill_after(within_s))

    async def _kill_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        for one in self._replicas:
            if one.life is not None:
                log.error("replica %d has not ended within %g s: it is killed", one.number, seconds)
                one.life.signal(signal.SIGKILL)

    def _restart_all(self) -> None:
        if self._ending.is_set() or not self._began:
            log.warning("SIGHUP is ignored while replicas start or end")
        elif self._rolling is not None and not self._rolling.done():
            log.warning("SIGHUP is ignored: the replicas are restarted already")
        else:
            self._rolling = self._beside(self._roll())

    async def _roll(self) -> None:
        """Restarts the replicas one by one. Stops at one that does not start again."""
        log.info("SIGHUP: the replicas are restarted one by one")
        for one in self._replicas:
            if one.life is None or one.facts is None:
                continue  # it has died, and its keeper starts it or has given it up
            ready = one.next_life()
            one.restarting = True
            one.life.signal(signal.SIGTERM)
            late = asyncio.get_running_loop().call_later(
                self._drain_s + self._pace.end_within_s, one.life.signal, signal.SIGKILL
            )
            is_ready = await ready
            late.cancel()
            if self._ending.is_set():
                return
            if not is_ready:
                log.error("replica %d has not started again: the others go on", one.number)
                return
        log.info("all replicas are restarted")

    # -- output

    def _tell_ready(self, one: Replica, life: ReplicaProcess) -> None:
        if self._began:
            log.info("replica %d is ready again: process %d", one.number, life.pid)
            return
        facts = [other.facts for other in self._replicas]
        known = [fact for fact in facts if fact is not None]
        if len(known) == len(facts):
            self._began = True
            _say_ready([other.settings for other in self._replicas], known)

    def _beside(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs something beside the keepers. It is cancelled at the end."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _wait_at_most(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def target_of(settings: Settings) -> str:
    """The address of a replica for clients."""
    return advertised(settings.advertise, settings.host, settings.port)


_SAID = ("pid", "port", "http_port", "metrics_port")
"""What the line of a start says of each replica."""


def _say_ready(plan: Sequence[Settings], facts: Sequence[Facts]) -> None:
    """Prints how to reach the replicas: text for people, or one JSON line for programs."""
    first = facts[0]
    target = ",".join(map(target_of, plan))
    if not sys.stdout.isatty():
        replicas = [
            {
                **{name: one.get(name) for name in _SAID},
                "device": own.device,
            }
            for one, own in zip(facts, plan, strict=True)
        ]
        line = {**first, "pid": os.getpid(), "target": target, "replicas": replicas}
        sys.stdout.write(json.dumps(line) + "\n")
    else:
        metrics = ", ".join(f"{own.metrics_host}:{own.metrics_port}" for own in plan)
        models = first["models"]
        at = ", ".join(f"{own.host}:{own.http_port}" for own in plan if own.http_port != "off")
        http = f"  HTTP      {at}\n" if at else ""
        sys.stdout.write(
            f"carousel {version()} serves {len(models)} models in {len(plan)} replicas: {', '.join(models)}\n"
            f"  gRPC      {target}\n"
            f"{http}"
            f"  metrics   {metrics}\n"
            f"  devices   {', '.join(own.device for own in plan)}\n"
            f"  store     {first['store']}\n"
            f"  try       carousel models list --server {target}\n"
            f"  restart   kill -HUP {os.getpid()}\n"
            f"  stop      Ctrl-C, or kill {os.getpid()}\n"
        )
    sys.stdout.flush()
