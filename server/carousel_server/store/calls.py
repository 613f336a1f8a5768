"""Which call of the store runs a request, or several that run together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from carousel_server.core.store import (
    Acquire,
    AskFor,
    CommitGroup,
    Keep,
    ListStored,
    Read,
    Release,
    Remove,
    Store,
    StoreRequest,
)

from .acquiring import Acquiring
from .peers import Peers

Work = Callable[[], Sequence[Any]]
"""A call of the store. It returns the answer of each request, which may be a CarouselError, or raises."""


class Calls:
    """The calls for requests. Used on the store's thread only."""

    def __init__(self, store: Store, peers: Peers, acquiring: Acquiring) -> None:
        self._store = store
        self._peers = peers
        self._acquiring = acquiring

    def of(self, requests: Sequence[StoreRequest]) -> tuple[str, Work]:
        """The call for requests of one kind, and the kind's name in the metrics."""
        wanted = [one for one in requests if isinstance(one, Acquire)]
        if wanted:
            return "acquire", partial(self._acquiring.run, wanted)
        asked = [one for one in requests if isinstance(one, AskFor)]
        if asked:
            return "ask", partial(self._ask_for, asked)
        released = [one for one in requests if isinstance(one, Release)]
        if released:
            return "release", partial(self._release, released)
        (request,) = requests
        kind, work = self._of_one(request)
        return kind, lambda: [work()]

    def _ask_for(self, asked: Sequence[AskFor]) -> Sequence[None]:
        self._store.ask_for_all(asked, self._peers.said.address)
        return [None] * len(asked)

    def _release(self, released: Sequence[Release]) -> Sequence[None]:
        self._store.release([held for one in released for held in one.held])
        return [None] * len(released)

    def _of_one(self, request: StoreRequest) -> tuple[str, Callable[[], object]]:
        """The call for a request that runs alone."""
        store = self._store
        match request:
            case Remove(key, epoch, reason):
                return "remove", partial(store.remove, key, epoch, reason)
            case Read(key):
                return "read", partial(store.read, key)
            case ListStored(tenant, after, limit, model):
                return "list", partial(store.list, tenant, after, limit, model)
            case Keep(keys):
                return "keep", partial(store.keep, keys)
            case Acquire() | AskFor() | CommitGroup() | Release():
                raise AssertionError("these run in groups")
