"""The servers of one asyncio client: which there are, a channel to each, and where each call goes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import grpc

from carousel._core.addresses import Addresses
from carousel._core.lane import Lane
from carousel._core.requests import new_session_id
from carousel._core.routing import OWNED, is_address
from carousel._error_bases import CarouselError, ConnectionLostError, ServerUnreachableError
from carousel._home import check_gevent
from carousel._rpc_errors import error_of_call
from carousel._targets import look_up

from .calls import AsyncCalls
from .primitives import away_from_the_loop, reply_of
from .refresher import AsyncRefresher
from .services import AsyncServices

REMEMBERED = 10_000
"""Sessions whose server is remembered after a redirect, where no stream has them."""


class At(NamedTuple):
    """What a call is about: a session by its id, and its lane where this client has one."""

    session_id: str = ""
    lane: Lane | None = None


ANY = At()


class Reply(NamedTuple):
    """The reply of a unary call, and the address of the server that gave it."""

    message: Any
    address: str


class AsyncReplicas:
    """With one target there is one channel, and gRPC finds the server.

    Attributes:
        calls: make the calls.
        addresses: the servers.
        on_change: called after the addresses have changed.
    """

    def __init__(self, calls: AsyncCalls) -> None:
        self.calls = calls
        self._target = calls.options.target
        self.addresses = Addresses(self._target.addresses, several=self._target.several)
        self.on_change: Callable[[], None] = _pass
        self._services: dict[str, AsyncServices] = {}
        self._users: dict[str, int] = {}
        self._owners: OrderedDict[str, str] = OrderedDict()
        self._refresher: AsyncRefresher | None = None
        # Guards all of these, and that no channel is made once the client is closed.
        self._lock = threading.Lock()

    # -- which there are

    async def ready(self, _left_s: float = 0.0) -> None:
        """Returns once a server is known.

        Raises:
            ServerUnreachableError: the target's name cannot be looked up.
            EventLoopError: gevent has patched this process, and gRPC does not know.
        """
        check_gevent()
        if self.addresses.known:
            return
        self.calls.home.check_open()
        await self._look_up()
        with self._lock:
            self.calls.home.check_open()
            if self._refresher is None:
                self._refresher = AsyncRefresher(self._refresh)

    async def _look_up(self) -> None:
        try:
            found = await away_from_the_loop(look_up, self._target)
        except OSError as error:
            text = f"{self._target.host} cannot be looked up: {error}"
            raise ServerUnreachableError(text) from error
        if found and found != self.addresses.known:
            self.addresses.replace(found)
            self.on_change()

    async def _refresh(self) -> None:
        """Looks the name up again. Where that fails, the servers that are known stay."""
        try:
            await self._look_up()
        except ServerUnreachableError as error:
            self.calls.watch.looking(error, self._target.text)
        else:
            self.calls.watch.answered(self._target.text)
        await self.close_unused()

    # -- channels

    def take(self, address: str) -> AsyncServices:
        """The services of a server, until `give_back`. Raises ClientClosedError, EventLoopError."""
        with self._lock:
            self.calls.home.check_open()
            if address not in self._services:
                self._services[address] = AsyncServices(self.calls.options, address)
            self._users[address] = self._users.get(address, 0) + 1
            return self._services[address]

    def give_back(self, address: str) -> None:
        """The call, or the stream, has ended."""
        with self._lock:
            self._users[address] -= 1

    async def close_unused(self) -> None:
        """Closes the channels to servers that are not known any more, where nothing uses them."""
        with self._lock:
            gone = [
                address
                for address in self._services
                if address not in self.addresses.known and not self._users[address]
            ]
            unused = [self._services.pop(address) for address in gone]
        for services in unused:
            await services.close()

    async def close(self) -> None:
        """Disconnects from all. The client's `home` is closed before."""
        with self._lock:
            services = list(self._services.values())
            refresher, self._refresher = self._refresher, None
        if refresher is not None:
            await refresher.close()
        for one in services:
            await one.close()

    # -- calls

    async def unary(
        self,
        service: str,
        method: str,
        request: Any,
        timeout_s: float | None = None,
        *,
        at: At = ANY,
    ) -> Reply:
        """One call. A refusal is tried again while the deadline allows, where the session or a server is."""

        async def attempt(left_s: float) -> Reply:
            await self.ready()
            address = self.place(at)
            services = self.take(address)
            try:
                call = getattr(getattr(services, service), method)
                metadata = self.calls.options.metadata
                message = await reply_of(
                    lambda: call(request, timeout=left_s, metadata=metadata), self.calls.home
                )
            except grpc.RpcError as error:
                raise self.noted(address, error_of_call(error), at) from None
            finally:
                self.give_back(address)
            self.answered(address, at)
            return Reply(message, address)

        return await self.calls.retrying(attempt, timeout_s)

    async def pages(self, service: str, method: str, request: Any) -> AsyncIterator[Any]:
        """All pages of a list, from one server."""
        at = At(new_session_id())  # the place of a random session
        while True:
            page = (await self.unary(service, method, request, at=at)).message
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def place(self, at: At) -> str:
        """Where a call goes: to its session, or to one server after the other."""
        addresses, now_s = self.addresses, self.calls.monotonic()
        if not addresses.several:
            return addresses.known[0]
        lane = at.lane
        if lane is not None and lane.listens:
            return lane.link.address
        owner = self._owners.get(at.session_id, "")
        if owner and not addresses.is_away(owner, now_s):
            return owner
        if lane is not None and not addresses.is_away(lane.link.address, now_s):
            return lane.link.address
        if at.session_id:
            return addresses.place(at.session_id, now_s)
        return addresses.next_in_turn(now_s)

    def answered(self, address: str, at: At = ANY) -> None:
        """A server has answered. It has the session of the call, whatever was remembered."""
        self._forget_owner(at, but=address)
        self.addresses.answered(address)
        self.calls.watch.answered(address)

    def noted(self, address: str, error: CarouselError, at: At = ANY) -> CarouselError:
        """Takes what the error of a call says of its server and of its session. Returns the error."""
        if not self.addresses.several:
            return error
        owner = error.metadata.get("owner", "")
        unreached = isinstance(error, ServerUnreachableError | ConnectionLostError)
        if unreached or error.reason == "DRAINING":
            self._forget_owner(at)
            self.failed(address, error)
        elif error.reason in OWNED and self.remember(at.session_id, owner):
            if owner != address and not self.addresses.is_away(owner, self.calls.monotonic()):
                error.retry_after_s = (
                    None  # it is the time until another server may have the session
                )
        else:
            self._forget_owner(at)
        return error

    def remember(self, session_id: str, owner: str) -> bool:
        """Notes which server has a session. False if that is no address, or this client has one target."""
        if not (self.addresses.several and session_id and is_address(owner)):
            return False
        with self._lock:
            self._owners[session_id] = owner
            if len(self._owners) > REMEMBERED:
                self._owners.popitem(last=False)
        return True

    def _forget_owner(self, at: At, but: str = "") -> None:
        if at.session_id in self._owners:
            with self._lock:
                if self._owners.get(at.session_id, but) != but:
                    del self._owners[at.session_id]

    def failed(self, address: str, error: CarouselError) -> None:
        """A server could not be reached, or stops."""
        self.addresses.failed(address, self.calls.monotonic())
        self.lost(address, error)

    def lost(self, address: str, error: CarouselError) -> None:
        """The connection to a server is lost. Its name is looked up again soon."""
        self.calls.watch.looking(error, address)
        if self._refresher is not None:
            self._refresher.hurry()


def _pass() -> None:
    """Where nothing depends on the addresses."""
