"""A bystander of a load: a modest client at a low, fixed rate, and health checks."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

import carousel

from .figures import Measured, percentile
from .models import WIDTH

SESSIONS = 8
PERIOD_S = 0.1
HEALTH_PERIOD_S = 0.05


class Witness:
    """Its sessions step once a period each, never two at a time; `open` it, `watch`, `close` it."""

    def __init__(
        self, address: str, model: str, *, token: str | None = None, sessions: int = SESSIONS
    ) -> None:
        self._address, self._model = address, model
        self._token, self._count = token, sessions
        self._client: carousel.AsyncClient | None = None
        self._sessions: list[Any] = []

    async def open(self) -> None:
        """Opens the sessions and steps each once."""
        self._client = await carousel.AsyncClient(
            self._address, token=self._token, timeout_s=30.0
        ).__aenter__()
        x = np.zeros(WIDTH, np.float32)
        for _ in range(self._count):
            session = await self._client.session(self._model, durability="none")
            await session.step(x)
            self._sessions.append(session)

    async def watch(self, seconds: float) -> Measured:
        """Steps and asks for `seconds`; latencies from the intended instants, in milliseconds."""
        steps: list[float] = []
        checks: list[float] = []
        errors: list[BaseException] = []
        end_s = time.perf_counter() + seconds
        await asyncio.gather(
            self._ask(checks, end_s),
            *(
                self._step(session, number * PERIOD_S / self._count, end_s, steps, errors)
                for number, session in enumerate(self._sessions)
            ),
        )
        return {
            "others_p50_ms": percentile(steps, 0.5) * 1e3,
            "others_p99_ms": percentile(steps, 0.99) * 1e3,
            "others_failed": float(len(errors)),
            "health_p99_ms": percentile(checks, 0.99) * 1e3,
            "health_max_ms": max(checks) * 1e3,
        }

    async def close(self) -> None:
        """Closes the sessions and the client."""
        if self._client is not None:
            await asyncio.gather(*(session.close() for session in self._sessions))
            await self._client.__aexit__(None, None, None)

    @staticmethod
    async def _step(
        session: Any, phase_s: float, end_s: float, times: list[float], errors: list[BaseException]
    ) -> None:
        x = np.zeros(WIDTH, np.float32)
        due_s = time.perf_counter() + phase_s
        while due_s < end_s:
            await asyncio.sleep(due_s - time.perf_counter())
            try:
                await session.step(x)
            except carousel.CarouselError as error:
                errors.append(error)
            times.append(time.perf_counter() - due_s)
            # A late answer delays the next step: this client has one on its way at most.
            due_s = max(due_s + PERIOD_S, time.perf_counter())

    async def _ask(self, times: list[float], end_s: float) -> None:
        async with grpc.aio.insecure_channel(self._address) as channel:
            check = cast(Any, health_pb2_grpc.HealthStub(channel)).Check
            request = health_pb2.HealthCheckRequest()
            await check(request)
            due_s = time.perf_counter()
            while due_s < end_s:
                await asyncio.sleep(due_s - time.perf_counter())
                reply = await check(request, timeout=10)
                assert reply.status == health_pb2.HealthCheckResponse.SERVING, "an unhealthy server"
                times.append(time.perf_counter() - due_s)
                due_s = max(due_s + HEALTH_PERIOD_S, time.perf_counter())
