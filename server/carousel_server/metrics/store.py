"""The metrics of the store."""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import override

from carousel_server.core.metering import StoreMetrics
from carousel_server.core.store import Verdict

from .families import Families

REQUESTS = (
    *("acquire", "commit", "release", "remove", "read", "list"),
    *("renew", "sweep", "statistics", "replicas", "ask", "asked", "keep"),
)


class KeepingMetrics(StoreMetrics):
    """The metrics of the store. Every series exists from the start, at zero."""

    def __init__(self, families: Families) -> None:
        self._requests = {
            (kind, ok): families.scalar("carousel_store_requests_total", kind, answer)
            for kind in REQUESTS
            for ok, answer in ((True, "answered"), (False, "failed"))
        }
        self._request_s = {
            kind: families.histogram("carousel_store_request_seconds", kind) for kind in REQUESTS
        }
        self._commits = {
            verdict: families.scalar("carousel_store_commits_total", verdict.value)
            for verdict in Verdict
        }
        self._commit_records = families.histogram("carousel_store_commit_records")
        self._commit_bytes = families.scalar("carousel_store_commit_bytes_total")
        self._sessions = families.scalar("carousel_store_sessions")
        self._bytes = families.scalar("carousel_store_bytes")

    @override
    def request(self, kind: str, ok: bool, seconds: float) -> None:
        self._requests[kind, ok].add()
        self._request_s[kind].observe(seconds)

    @override
    def commit_group(
        self, records: int, snapshot_bytes: int, seconds: float, verdicts: Mapping[Verdict, int]
    ) -> None:
        del seconds  # they are in the requests of kind "commit"
        self._commit_records.observe(records)
        self._commit_bytes.add(snapshot_bytes)
        for verdict, count in verdicts.items():
            self._commits[verdict].add(count)

    @override
    def level(self, sessions: int, stored_bytes: int) -> None:
        self._sessions.set(sessions)
        self._bytes.set(stored_bytes)
