"""The wire in processes of its own, which are linked to the engines and restarted if they die."""

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

from carousel_server.core.catalog import CatalogPort
from carousel_server.core.metering import WireMetrics
from carousel_server.link import Back, Pipe, connect
from carousel_server.link.meters import SharedMetrics
from carousel_server.link.pipe import Message
from carousel_server.wire import ListenError, WireOptions, check_address

from .doors import Ports
from .front_end import Greeting

log = logging.getLogger(__name__)

_LOOK_S = 0.25
_SHORT_LIFE_S = 5.0
"""A front end that dies sooner is not replaced, since the next one would die too."""
_EXIT_WITHIN_S = 5.0
_SILENT_S = 15.0
"""A front end reports its calls a few times a second. One that is silent for so long is replaced."""
_START_WITHIN_S = 60.0
_ANSWER_WITHIN_S = 5.0
"""Time-out of a request, in addition to its own grace."""


class FrontEnds:
    """Several front ends on one port, with the methods of `Doors`. Used on the event loop.

    Attributes:
        ports: where all front ends listen.
        failed: why no front end can be started any more, or "".
    """

    def __init__(
        self, count: int, *, log_level: str, log_format: str, replica: int | None = None
    ) -> None:
        """Starts the processes. They load the wire while the engines load their models."""
        self._log = log_level, log_format, replica
        self._processes = [_Process() for _ in range(count)]
        self._begin: Callable[[_Process], _Linked]
        self._replaced: Callable[[], None]
        self._linked: list[_Linked] = []
        self._watch: asyncio.Task[None] | None = None
        self._again: set[asyncio.Task[None]] = set()
        # Set when the server drains. Then no front end is replaced.
        self._ending = False
        self.ports = Ports(0, None)
        self.failed = ""

    async def start(
        self,
        catalog: CatalogPort,
        options: WireOptions,
        metrics: WireMetrics,
        replaced: Callable[[], None],
    ) -> None:
        """Makes all front ends listen. `replaced` is called for each one that died and is replaced.

        Raises:
            ListenError: the address cannot be listened on.
        """
        models = [engine.model for engine in catalog.engines()]
        shared_port = len(self._processes) > 1
        if shared_port:  # they cannot check the address themselves, since they share it
            check_address(options.host, options.port)
            if options.http_port is not None:
                check_address(options.host, options.http_port, "http-port")
        greeting = Greeting(models, replace(options, shared_port=shared_port), *self._log)
        shared = SharedMetrics(metrics)
        self._replaced = replaced
        self._begin = partial(_Linked, catalog, greeting, shared, self._died)
        for process in tuple(self._processes):  # the first one finds the port of all
            await self._link(process)
        self._watch = asyncio.create_task(self._look_after(catalog))

    async def _link(self, process: _Process) -> None:
        linked = self._begin(process)
        await linked.connect()
        self._linked.append(linked)
        self.ports = await linked.start(self.ports)

    async def drain(self, grace_s: float, *, hands_over: bool = False) -> None:
        """Refuses new calls and sends Drain to all streams. Accepted work continues.

        `hands_over` as in `WireServer.drain`.
        """
        self._ending = True
        await self._all("drain", (grace_s, hands_over), _ANSWER_WITHIN_S)

    async def stop(self, grace_s: float) -> None:
        """Ends the streams after their queued messages. Cancels calls that run longer than `grace_s`."""
        self._ending = True
        if self._watch is not None:
            self._watch.cancel()
        await asyncio.gather(*self._again, return_exceptions=True)
        await self._all("stop", (grace_s,), grace_s + _ANSWER_WITHIN_S)
        linked, self._linked = self._linked, []
        for one in linked:
            one.close()
        await asyncio.gather(*(asyncio.to_thread(process.end) for process in self._processes))

    async def _all(self, verb: str, arguments: tuple[object, ...], most_s: float) -> None:
        """Sends a request to all front ends. Ends the link to one that does not answer."""

        async def told(one: _Linked) -> None:
            try:
                await asyncio.wait_for(one.ask(verb, *arguments), most_s)
            except TimeoutError:
                log.warning("a front end did not answer %r within %g s", verb, most_s)
                one.close()

        await asyncio.gather(*map(told, tuple(self._linked)))

    async def _look_after(self, catalog: CatalogPort) -> None:
        """Sends the health of the engines, and ends front ends that no longer report."""
        while True:
            healthy = [engine.healthy for engine in catalog.engines()]
            for one in tuple(self._linked):
                one.tell_health(healthy, catalog.store_fault)
                if one.silent_s > _SILENT_S:
                    log.error("a front end has not reported for %g s", _SILENT_S)
                    one.process.kill()
            await asyncio.sleep(_LOOK_S)

    def _died(self, dead: _Linked) -> None:
        """Replaces a front end that has died. Its clients connect again, to the next one."""
        if dead in self._linked:
            self._linked.remove(dead)
            self._processes.remove(dead.process)
            again = asyncio.create_task(self._replace(dead))
            self._again.add(again)
            again.add_done_callback(self._again.discard)

    async def _replace(self, dead: _Linked) -> None:
        short_lived = dead.listened_s < _SHORT_LIFE_S
        code = await asyncio.to_thread(dead.process.wait)
        if self._ending:
            return
        if short_lived:
            self.failed = f"a front end ended with code {code} soon after its start"
            return
        log.error("a front end has ended with code %s; another is started", code)
        self._replaced()
        try:
            process = _Process()
            self._processes.append(process)
            await self._link(process)
        except Exception as error:
            log.exception("a front end could not be replaced")
            self.failed = f"a front end could not be replaced: {error}"


class _Process:
    """One front end, from its start."""

    def __init__(self) -> None:
        self.end_of_link, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                # -P: files in the working directory are not part of the server.
                [sys.executable, "-P", "-m", "carousel_server.process.front_end", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                process_group=0,  # the server handles Ctrl-C at a terminal
            )  # fmt: skip

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> int:
        """The exit code of a process whose link has ended."""
        try:
            return self._process.wait(_EXIT_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def end(self) -> None:
        """Ends the process. Its link may not have been used."""
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
        # The health of engines and store as it was sent last. None before it listens.
        self._health: tuple[list[bool], str | None] | None = None
        self._done: dict[str, asyncio.Future[Any]] = {}
        self._listens_since_s: float | None = None
        self._heard_s = 0.0
        self._gone = False

    @property
    def listened_s(self) -> float:
        """Seconds since it listens."""
        since = self._listens_since_s
        return 0.0 if since is None else time.monotonic() - since

    @property
    def silent_s(self) -> float:
        """Seconds since its last report. 0 before it listens."""
        return 0.0 if self._listens_since_s is None else time.monotonic() - self._heard_s

    async def connect(self) -> None:
        """Connects the link."""
        self._pipe = await connect(self.process.end_of_link, self._take, self._lost)
        self._back = Back(self._catalog, self._pipe.post, self._metrics.readings)

    async def start(self, ports: Ports) -> Ports:
        """Makes it listen. A port that is 0 or None is that of the options. Returns the ports.

        Raises:
            ListenError: it cannot listen.
        """
        options = self._greeting.options
        own = replace(
            options, port=ports.grpc or options.port, http_port=ports.http or options.http_port
        )
        greeting = replace(self._greeting, options=own)
        try:
            answer = await asyncio.wait_for(self.ask("start", greeting), _START_WITHIN_S)
        except TimeoutError:
            answer = f"a front end did not listen within {_START_WITHIN_S:g} s\nsee the log for the cause"
        if isinstance(answer, Ports):
            self._health = [], None
            self._listens_since_s = self._heard_s = time.monotonic()
            self._back.listening()
            return answer
        raise ListenError(
            answer or "the front end ended before it listened\nsee the log for the cause"
        )

    async def ask(self, verb: str, *arguments: object) -> Any:
        """Sends a request. Returns the answer, or None if the front end has ended."""
        assert self._pipe is not None, "connect first"
        if self._gone:
            return None
        done = self._done[verb] = asyncio.get_running_loop().create_future()
        self._pipe.post(verb, *arguments)
        return await done

    def tell_health(self, healthy: list[bool], store_fault: str | None) -> None:
        """Sends the health of engines and the store's fault, if they have changed."""
        now = (healthy, store_fault)
        if self._pipe is not None and self._health is not None and now != self._health:
            self._health = now
            self._pipe.post("healthy", *now)

    def close(self) -> None:
        """Ends the link, which ends the process."""
        if self._pipe is not None:
            self._pipe.close()

    def _take(self, message: Message) -> None:
        self._heard_s = time.monotonic()
        if message[0] == "metered":
            self._metrics.take(self, message[1])
        elif message[0] == "did":
            _, verb, answer = message
            _settle(self._done[verb], answer)
        else:
            self._back.take(message)

    def _lost(self) -> None:
        self._gone = True
        self._metrics.forget(self)
        for done in self._done.values():
            _settle(done, None)
        self._died(self)
        self._back.close()


def _settle(done: asyncio.Future[Any], answer: object) -> None:
    if not done.done():
        done.set_result(answer)
