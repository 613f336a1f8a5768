"""What surrounds every call of every transport: metrics, tenant, lane, quota, errors and access log.

The order of the surroundings is the order of the lines in `Surroundings.run`. A transport adds how a request
is read and how an error is written.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from carousel_server.core.errors import CarouselError
from carousel_server.core.metering import WireMetrics
from carousel_server.core.quotas import QuotaPort

from .auth import Authenticator
from .call import ABANDONED, ONE_MESSAGE, Call, defect, enter, log_access
from .call_limits import CallLimits
from .errors import count_refusal
from .lanes import Lane
from .tenants import count_call

_TOOLS = ("grpc.health.", "grpc.reflection.")
"""Services that no quota counts: probes must reach them."""

log = logging.getLogger("carousel.wire")

T = TypeVar("T")


class Answered(Exception):  # noqa: N818 - a way out of a call, and no error of ours
    """A handler has answered its call by itself, with a status code of this name."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Surroundings:
    """Those of one server's calls. On the loop only.

    Attributes:
        authenticator: who may come in.
        limits: how many calls run, and how long each may take to send its request.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        limits: CallLimits,
        metrics: WireMetrics,
        quotas: QuotaPort,
    ) -> None:
        self.authenticator = authenticator
        self.limits = limits
        self._metrics = metrics
        self._quotas = quotas

    @property
    def certificates(self) -> bool:
        """True if the names in a caller's certificate matter."""
        return bool(self.authenticator.certificates)

    async def run(
        self, call: Call, token: Any, names: Iterable[str], work: Callable[[Lane], Awaitable[T]]
    ) -> T:
        """Runs a call's own work inside its surroundings, and returns its result.

        Args:
            call: the call, without its tenant.
            token: the `authorization` header, None if there is none.
            names: those in the caller's certificate.
            work: gets the lane that the call is in.

        Raises:
            CarouselError: the refusal to write. It is counted and logged already.
            Answered: the call has an answer.
            asyncio.CancelledError: the client has ended the call.
        """
        enter(call)
        started_s = time.perf_counter()
        code = "OK"
        self._metrics.started(call.service, call.method, call.kind)
        try:
            call.tenant = self.authenticator.tenant(call.service, token, names)
            lane = self.limits.lane(call.service)
            lane.enter()
            try:
                if not call.service.startswith(_TOOLS):
                    await count_call(self._quotas, call.tenant)
                return await work(lane)
            finally:
                lane.leave()
        except CarouselError as error:
            if error.reason == "INTERNAL":  # the log has what went wrong, but not in whose call
                error = self._defect(call)
            code = self._refused(error, call)
            raise error from None
        except Answered as answered:
            code = answered.code
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            self._cancelled(call)
            raise
        except Exception:  # noqa: BLE001 - logged with the call that it is of
            refusal = self._defect(call)
            code = self._refused(refusal, call)
            raise refusal from None
        finally:
            seconds = time.perf_counter() - started_s
            self._metrics.handled(call.service, call.method, call.kind, code, seconds)
            log_access(call, code, seconds)

    def abandoned(self, call: Call) -> None:
        """The client has ended a call before its first message came."""
        call.reason = ABANDONED
        self.limits.abandoned(call.peer)

    def _refused(self, error: CarouselError, call: Call) -> str:
        """Counts a refusal. Returns the name of its status code."""
        call.reason = error.reason
        self.limits.refused(error, call.peer)
        count_refusal(self._metrics, error)
        return error.spec.code.name

    def _cancelled(self, call: Call) -> None:
        """The client has ended a call before it was answered; its reader sees to those without a message."""
        if not call.heard and call.kind not in ONE_MESSAGE:
            self.abandoned(call)

    @staticmethod
    def _defect(call: Call) -> CarouselError:
        log.exception("%s/%s failed, request %s", call.service, call.method, call.request_id)
        return defect(call)
