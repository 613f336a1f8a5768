"""Quotas on the wire's side of a link: the engines' process counts, for all front ends together."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from carousel_server.core.backlogged import Backlogged
from carousel_server.core.quotas import TenantLimits

Ask = Callable[..., Future[None]]
Post = Callable[..., None]


class FarQuotas:
    """Implements `QuotaPort` by asking the engines' process. On the loop."""

    def __init__(self, limits: TenantLimits, ask: Ask, post: Post) -> None:
        self.limits = limits
        self.backlogged = Backlogged()
        self._ask = ask
        self._post = post

    def call(self, tenant: str) -> Future[None]:
        """See `QuotaPort.call`."""
        return self._ask("call", tenant)

    def open_stream(self, tenant: str) -> Future[None]:
        """See `QuotaPort.open_stream`."""
        return self._ask("open_stream", tenant)

    def close_stream(self, tenant: str) -> None:
        """See `QuotaPort.close_stream`."""
        self._post("stream_closed", tenant)
