"""A connection that breaks while a reply is written is the client's going, no defect of ours."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from carousel_server.core.quotas import Quotas
from carousel_server.wire.call import Call
from carousel_server.wire.call_limits import CallLimits
from carousel_server.wire.calls import CallInterceptor
from carousel_server.wire.options import WireOptions
from carousel_server.wire.surroundings import Surroundings


class Recorded:
    """Takes the metrics of calls; remembers how they ended."""

    def __init__(self) -> None:
        self.codes: list[str] = []

    def started(self, *_: object) -> None:
        pass

    def handled(self, _service: str, _method: str, _kind: str, code: str, _s: float) -> None:
        self.codes.append(code)


async def test_a_reply_that_cannot_be_written_is_a_cancelled_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def attach(_request: object, _context: object) -> None:
        raise grpc.aio.InternalError('Failed "execute_batch"')

    metrics: Any = Recorded()
    doorkeeper: Any = SimpleNamespace(certificates={}, tenant=lambda *_: "t")
    context: Any = SimpleNamespace(set_trailing_metadata=lambda _trailers: None)
    limits = CallLimits(WireOptions(), metrics)
    interceptor = CallInterceptor(Surroundings(doorkeeper, limits, metrics, Quotas()))
    call = Call("carousel.v1.InferenceService", "Attach", "bidi_stream", "id")
    with caplog.at_level(logging.ERROR), pytest.raises(asyncio.CancelledError):
        await interceptor._run(call, None, attach, None, context)
    assert metrics.codes == ["CANCELLED"]
    assert not caplog.records
