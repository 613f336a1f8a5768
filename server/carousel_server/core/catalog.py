"""The port of the catalog: where sessions are, and how they are opened, read and closed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from .ports import EnginePort, Fork, Import, Opened, Place
from .quotas import QuotaPort
from .types import OpenSpec, SessionView


class CatalogPort(Protocol):
    """All engines of the server, and the one place that knows which session is where.

    Attributes:
        quotas: what counts the calls and streams of each tenant.
    """

    @property
    def quotas(self) -> QuotaPort:
        """Constant."""

    def engines(self) -> Sequence[EnginePort]:
        """Ordered by model name."""

    @property
    def store_fault(self) -> str | None:
        """Why the store does not answer at present, "" while it does; None where there is none."""

    def engine(self, model: str) -> EnginePort:
        """Raises CarouselError MODEL_NOT_FOUND."""

    def locate(self, tenant: str, session_id: str) -> Place | None:
        """Where a session is, if it is on a row now."""

    def resume(
        self, tenant: str, session_id: str, epoch_floor: int = 0, take_over: bool = False
    ) -> Future[Place]:
        """Where a session is; one that is in the store only is brought onto a row first.

        Another replica that has it is asked for it, and keeps it if a stream has it, unless `take_over`.

        The future fails with CarouselError SESSION_NOT_FOUND, SESSION_EXPIRED, SESSION_CLOSED,
        SESSION_HELD, STORE_UNAVAILABLE, SNAPSHOT_DAMAGED, FINGERPRINT_MISMATCH, MODEL_NOT_FOUND,
        SLAB_FULL, QUEUE_FULL or DRAINING.
        """

    def open(self, engine: EnginePort, spec: OpenSpec) -> Opened:
        """Opens a session, in the store too where its durability asks for one; see `Open`."""

    def copy(self, engine: EnginePort, command: Import | Fork) -> Opened:
        """Opens a session from a snapshot or from another session, in the store too."""

    def peek(self, tenant: str, session_id: str) -> Future[SessionView]:
        """Reads a session, without bringing it onto a row."""

    def discard(self, tenant: str, session_id: str) -> Future[SessionView]:
        """Closes a session in the store without bringing it onto a row; for those that no engine can run.

        The future fails with CarouselError SESSION_NOT_FOUND, SESSION_EXPIRED, SESSION_CLOSED,
        SESSION_HELD or STORE_UNAVAILABLE.
        """

    def stored(self, tenant: str, after: str, limit: int, model: str) -> Future[list[SessionView]]:
        """A tenant's sessions in the store, in the order of their ids behind `after`."""
