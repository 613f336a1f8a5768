"""Where a simulated client's calls go: the SDK's own choice among its servers, without its channels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from carousel._async.replicas import AsyncReplicas, At
from carousel._core.attach import AttachCore
from carousel._error_bases import CarouselError

if TYPE_CHECKING:
    from .world import World


class CallPlaces:
    """Chooses the address of each call, and hears what becomes of it."""

    def __init__(self, core: AttachCore, world: World) -> None:
        addresses = core._addresses
        target = SimpleNamespace(addresses=addresses.known, several=addresses.several)
        calls: Any = SimpleNamespace(
            options=SimpleNamespace(target=target), monotonic=world.clock, watch=_Quiet()
        )
        self._replicas = AsyncReplicas(calls)
        self._replicas.addresses = addresses

    def of(self, session_id: str, lane: Any) -> str:
        """The address for a call about a session."""
        return self._replicas.place(At(session_id, lane))

    def ended(self, address: str, session_id: str, error: CarouselError) -> None:
        """A call has failed there."""
        self._replicas.noted(address, error, At(session_id))

    def answered(self, address: str) -> None:
        """A call has an answer from there."""
        self._replicas.answered(address)


class _Quiet:
    """A watch that says nothing."""

    def answered(self, address: str) -> None:
        """A server has answered."""

    def looking(self, error: CarouselError, address: str) -> None:
        """A server is looked for."""
