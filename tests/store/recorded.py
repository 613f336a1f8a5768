"""A store that tells what it was asked, and the means to ask it through its thread, turned by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import Acquire, SessionKey, StoreRequest, Verdict
from carousel_server.store import MemoryMedium, MemoryStore, StoreThread

from .media import ALICE, NEW

TTL_S = 10.0


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Recorded(MemoryStore):
    """Tells what it was asked, and fails on demand: with `fault`."""

    def __init__(self, clock: Clock, lease_ttl_s: float = TTL_S, owner: str = ALICE) -> None:
        self.calls: list[str] = []
        self.fault: Exception | None = None
        self.on_call: Callable[[str], None] = lambda _: None
        self.on_answer: Callable[[str], None] = lambda _: None
        self.closed = 0
        super().__init__(MemoryMedium(), owner=owner, now=clock, lease_ttl_s=lease_ttl_s)

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        names = ("acquire", "commit", "release", "remove", "read", "list", "renew", "sweep")
        if name not in names:
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            told = f"{name} fsync" if named.get("fsync") else name
            self.calls.append(f"{told} {len(arguments[0])}" if name == "commit" else told)
            self.on_call(name)
            if self.fault is not None:
                raise self.fault
            answer = found(*arguments, **named)
            self.on_answer(name)
            return answer

        return call

    def close(self) -> None:
        self.closed += 1
        super().close()


class Told:
    """Implements StoreMetrics."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bool]] = []
        self.groups: list[tuple[int, int, Mapping[Verdict, int]]] = []
        self.levels: list[tuple[int, int]] = []

    def request(self, kind: str, ok: bool, seconds: float) -> None:
        assert seconds >= 0
        self.requests.append((kind, ok))

    def commit_group(
        self, records: int, snapshot_bytes: int, seconds: float, verdicts: Mapping[Verdict, int]
    ) -> None:
        assert seconds >= 0
        self.groups.append((records, snapshot_bytes, dict(verdicts)))

    def level(self, sessions: int, stored_bytes: int) -> None:
        self.levels.append((sessions, stored_bytes))


def submit(thread: StoreThread, *requests: StoreRequest) -> list[Future[Any]]:
    for request in requests:
        thread.submit(request)
    return [request.reply for request in requests]


def acquired(thread: StoreThread, *ids: str) -> list[SessionKey]:
    keys = [SessionKey("tenant", session_id) for session_id in ids]
    replies = submit(thread, *(Acquire(key, 0, NEW) for key in keys))
    thread.run_pending()
    assert all(reply.result(0).created for reply in replies)
    return keys


def reason(reply: Future[Any]) -> str:
    error = reply.exception(0)
    assert isinstance(error, CarouselError)
    return error.reason
