"""The wire in processes of its own: started, linked to the engines, and started again if they die."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from carousel_server.core.metering import WireMetrics
from carousel_server.core.ports import CatalogPort
from carousel_server.front_end import Greeting
from carousel_server.link import Back, Pipe, connect
from carousel_server.link.meters import SharedMetrics
from carousel_server.link.pipe import Message
from carousel_server.wire import ListenError, WireOptions

log = logging.getLogger(__name__)

_LOOK_AT_HEALTH_S = 0.25
_SHORT_LIFE_S = 5.0
"""One that dies sooner would die again."""
_EXIT_WITHIN_S = 5.0


class FrontEnds:
    """Several front ends on one port; has the verbs of a `WireServer`. On the loop.

    Attributes:
        port: where they listen.
        failed: why there is no hope, or "".
    """

    def __init__(self, count: int, *, log_level: str, log_format: str) -> None:
        """Starts the processes: they load the wire while the engines load their models."""
        self._log = log_level, log_format
        self._processes = [_Process() for _ in range(count)]
        self._begin: Callable[[_Process], _Linked]
        self._replaced: Callable[[], None]
        self._linked: list[_Linked] = []
        self._watch: asyncio.Task[None] | None = None
        self._again: set[asyncio.Task[None]] = set()
        self.port = 0
        self.failed = ""

    async def start(
        self,
        catalog: CatalogPort,
        options: WireOptions,
        metrics: WireMetrics,
        replaced: Callable[[], None],
    ) -> None:
        """Listens. `replaced` is called whenever one that died is about to be.

        Raises:
            ListenError: the address cannot be listened on.
        """
        models = [engine.model for engine in catalog.engines()]
        greeting = Greeting(
            models, replace(options, shared_port=len(self._processes) > 1), *self._log
        )
        shared = SharedMetrics(metrics)
        self._begin = partial(_Linked, catalog, greeting, shared, self._died)
        for process in self._processes:  # the first finds the port that all take
            await self._link(process)
        self._replaced = replaced
        self._watch = asyncio.create_task(self._tell_health(catalog))

    async def _link(self, process: _Process) -> None:
        linked = self._begin(process)
        self._linked.append(linked)
        self.port = await linked.start(self.port)

    async def drain(self, grace_s: float) -> None:
        """Lets nothing new begin and tells everybody; what was accepted goes on."""
        await self._all("drain", grace_s)

    async def stop(self, grace_s: float) -> None:
        """Ends the streams after what they have ready, waits for calls until `grace_s`, then cuts."""
        for task in (self._watch, *self._again):
            if task is not None:
                task.cancel()
        await self._all("stop", grace_s)
        linked, self._linked = self._linked, []
        for one in linked:
            one.close()
        await asyncio.gather(*(asyncio.to_thread(process.end) for process in self._processes))

    async def _all(self, verb: str, grace_s: float) -> None:
        await asyncio.gather(*(one.ask(verb, grace_s) for one in self._linked))

    async def _tell_health(self, catalog: CatalogPort) -> None:
        while True:
            healthy = [engine.healthy for engine in catalog.engines()]
            for one in self._linked:
                one.tell_health(healthy)
            await asyncio.sleep(_LOOK_AT_HEALTH_S)

    def _died(self, dead: _Linked) -> None:
        """A front end is gone though nobody has asked; its clients connect again, to the next one."""
        if dead in self._linked:
            self._linked.remove(dead)
            self._processes.remove(dead.process)
            again = asyncio.create_task(self._replace(dead.process))
            self._again.add(again)
            again.add_done_callback(self._again.discard)

    async def _replace(self, dead: _Process) -> None:
        age_s, code = dead.age_s, await asyncio.to_thread(dead.wait)
        if age_s < _SHORT_LIFE_S:
            self.failed = f"a front end ended with code {code} soon after its start"
            return
        log.error("a front end has ended with code %s: another takes its place", code)
        self._replaced()
        process = _Process()
        self._processes.append(process)
        try:
            await self._link(process)
        except ListenError as error:
            self.failed = str(error)


class _Process:
    """One front end, from its start."""

    def __init__(self) -> None:
        self.end_of_link, theirs = socket.socketpair()
        self._born_s = time.monotonic()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "carousel_server.front_end", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._born_s

    def wait(self) -> int:
        """The exit code of a process whose end of the link is gone."""
        try:
            return self._process.wait(_EXIT_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def end(self) -> None:
        """Ends the process, whose link may never have been used."""
        self.end_of_link.close()
        self.wait()


class _Linked:
    """One front end at the other end of a link."""

    def __init__(
        self,
        catalog: CatalogPort,
        greeting: Greeting,
        metrics: SharedMetrics,
        died: Callable[[_Linked], None],
        process: _Process,
    ) -> None:
        self.process = process
        self._catalog = catalog
        self._greeting = greeting
        self._metrics = metrics
        self._died = died
        self._pipe: Pipe | None = None
        self._back: Back
        # What it knows of the engines' health; None before it listens.
        self._healthy: list[bool] | None = None
        self._done: dict[str, asyncio.Future[Any]] = {}

    async def start(self, port: int) -> int:
        """Links, and has it listen; `port` 0 leaves the port to the options. Returns the port.

        Raises:
            ListenError: it cannot.
        """
        self._pipe = await connect(self.process.end_of_link, self._take, self._lost)
        self._back = Back(self._catalog, self._pipe.post)
        options = self._greeting.options
        greeting = replace(self._greeting, options=replace(options, port=port or options.port))
        answer = await self.ask("start", greeting)
        if isinstance(answer, int):
            self._healthy = []
            return answer
        raise ListenError(answer or "the front end has ended before it listened\nsee the log")

    async def ask(self, verb: str, argument: object) -> Any:
        """Has it do something; returns the answer, None if it is gone."""
        assert self._pipe is not None
        done = self._done[verb] = asyncio.get_running_loop().create_future()
        self._pipe.post(verb, argument)
        return await done

    def tell_health(self, healthy: list[bool]) -> None:
        """Says which engines are healthy, if that has changed."""
        if self._pipe is not None and self._healthy is not None and healthy != self._healthy:
            self._healthy = healthy
            self._pipe.post("healthy", healthy)

    def close(self) -> None:
        """Ends the link, and with it the process."""
        if self._pipe is not None:
            self._pipe.close()

    def _take(self, message: Message) -> None:
        if message[0] == "metered":
            self._metrics.take(self, message[1])
        elif message[0] == "did":
            _, verb, answer = message
            _settle(self._done[verb], answer)
        else:
            self._back.take(message)

    def _lost(self) -> None:
        self._back.close()
        self._metrics.forget(self)
        for done in self._done.values():
            _settle(done, None)
        self._died(self)


def _settle(done: asyncio.Future[Any], answer: object) -> None:
    if not done.done():
        done.set_result(answer)
