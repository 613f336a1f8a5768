"""What tests of the native transport alone start it with."""

from __future__ import annotations

from typing import Any

SMALL = {"message_bytes": 1 << 20, "calls_per_connection": 100, "connections": 100}
"""Limits of a transport."""


class Passing:
    """An interceptor that does nothing."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        return await continuation(details)
