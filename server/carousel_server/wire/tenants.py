"""A tenant's quotas at the wire's doors: calls are refused, streams are counted, messages wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager

from carousel_server.core.errors import CarouselError
from carousel_server.core.quotas import QuotaPort

from .replies import reply_of


async def count_call(quotas: QuotaPort, tenant: str) -> None:
    """Counts a call of a tenant.

    Raises:
        CarouselError: QUOTA_EXCEEDED.
    """
    if quotas.limits.tenant_calls_per_s:
        await _settled(quotas.call(tenant))


async def message_turn(quotas: QuotaPort, tenant: str) -> None:
    """Returns when the next message of a tenant's stream may be taken.

    Messages of a stream are not refused: whoever sends more than its quota finds the stream full.
    """
    while quotas.limits.tenant_calls_per_s:
        try:
            await _settled(quotas.call(tenant))
        except CarouselError as error:
            if error.retry_after_s is None:
                raise
            await asyncio.sleep(error.retry_after_s)
        else:
            return


@asynccontextmanager
async def counted_stream(quotas: QuotaPort, tenant: str) -> AsyncIterator[None]:
    """Counts a stream of a tenant while it is open.

    Raises:
        CarouselError: QUOTA_EXCEEDED.
    """
    if not quotas.limits.tenant_streams:
        yield
        return
    opened = quotas.open_stream(tenant)

    def close(answered: Future[None]) -> None:
        if answered.exception() is None:
            quotas.close_stream(tenant)

    try:
        await _settled(opened)
    except asyncio.CancelledError:  # the caller is gone, and the answer may come yet
        opened.add_done_callback(close)
        raise
    try:
        yield
    finally:
        quotas.close_stream(tenant)


async def _settled(answer: Future[None]) -> None:
    """Waits for an answer; in a process with engines it is there at once."""
    if answer.done():
        answer.result()
    else:
        await reply_of(answer)
