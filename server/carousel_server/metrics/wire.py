"""The metrics of the wire."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

from google.protobuf.descriptor import MethodDescriptor
from typing_extensions import override

from carousel_protos.errors import ERRORS, Code
from carousel_protos.triton import inference_pb2
from carousel_protos.v1 import carousel_pb2
from carousel_server.core.metering import HTTP, HTTP_METHODS, TURNED_AWAY, Readings, WireMetrics

from .families import Families, TenantMetrics
from .readings import readings

OTHER = "other"
"""Label of services and methods that are not ours, so that a caller cannot create series."""

_STANDARD = {
    ("grpc.health.v1.Health", "Check"): "unary",
    ("grpc.health.v1.Health", "List"): "unary",
    ("grpc.health.v1.Health", "Watch"): "server_stream",
    ("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo"): "bidi_stream",
    ("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo"): "bidi_stream",
}


def _kind(method: MethodDescriptor) -> str:
    if method.client_streaming:
        return "bidi_stream" if method.server_streaming else "client_stream"
    return "server_stream" if method.server_streaming else "unary"


def known_calls() -> Iterator[tuple[str, str, str]]:
    """(kind, service, method) of all calls that a Carousel server has."""
    services = [
        *carousel_pb2.DESCRIPTOR.services_by_name.values(),
        *inference_pb2.DESCRIPTOR.services_by_name.values(),
    ]
    for service in services:
        for method in service.methods:
            yield _kind(method), service.full_name, method.name
    for (service_name, method_name), kind in _STANDARD.items():
        yield kind, service_name, method_name


class CallMetrics(WireMetrics):
    """The metrics of calls. Used on the event loop only.

    The series of our own calls with OK exist from the start. The others of `grpc_server_handled_total`
    appear with the first call that has that status.
    """

    def __init__(self, families: Families, tenants: TenantMetrics) -> None:
        self._families = families
        self._tenants = tenants
        self._known = set(known_calls())
        self._streams = families.scalar("carousel_attach_streams")
        self._redirects = families.scalar("carousel_redirects_total")
        self._connections_closed = families.scalar("carousel_connections_closed_total")
        self._turned_away = {
            what: families.scalar("carousel_turned_away_total", what) for what in TURNED_AWAY
        }
        self._reloads = {
            (what, ok): families.scalar(
                "carousel_secret_reloads_total", what, "ok" if ok else "failed"
            )
            for what in ("tokens", "tls")
            for ok in (True, False)
        }
        self._loop_lag_s = families.histogram("carousel_event_loop_lag_seconds")
        self._refused = {
            reason: families.scalar("carousel_refusals_total", reason) for reason in ERRORS
        }
        for method in HTTP_METHODS:
            families.histogram("carousel_http_request_seconds", method)
            for code in ("OK", *(code.name for code in Code)):
                families.scalar("carousel_http_requests_total", method, code)
        for call in self._known:
            families.scalar("grpc_server_started_total", *call)
            families.histogram("grpc_server_handling_seconds", *call)
            for code in ("OK", "UNKNOWN", *(code.name for code in Code)):
                families.scalar("grpc_server_handled_total", *call, code)

    @override
    def started(self, service: str, method: str, kind: str) -> None:
        if service == HTTP:
            return  # counted at its end; its methods are the door's own routes
        call = self._bounded(service, method, kind)
        self._families.scalar("grpc_server_started_total", *call).add()

    @override
    def handled(self, service: str, method: str, kind: str, code: str, seconds: float) -> None:
        if service == HTTP:
            self._families.scalar("carousel_http_requests_total", method, code).add()
            self._families.histogram("carousel_http_request_seconds", method).observe(seconds)
            return
        call = self._bounded(service, method, kind)
        self._families.scalar("grpc_server_handled_total", *call, code).add()
        self._families.histogram("grpc_server_handling_seconds", *call).observe(seconds)

    @override
    def refused(self, reason: str, count: int = 1) -> None:
        self._refused[reason].add(count)

    @override
    def quota_refused(self, tenant: str, quota: str, count: int = 1) -> None:
        self._tenants.refused(tenant, quota, count)

    @override
    def redirected(self, count: int = 1) -> None:
        self._redirects.add(count)

    @override
    def streams(self, count: int) -> None:
        self._streams.set(count)

    @override
    def connection_closed(self) -> None:
        self._connections_closed.add()

    @override
    def turned_away(self, what: str, count: int) -> None:
        self._turned_away[what].add(count)

    @override
    def reloaded(self, what: str, *, ok: bool) -> None:
        self._reloads[what, ok].add()

    @override
    def loop_lag(self, seconds: float) -> None:
        self._loop_lag_s.observe(seconds)

    @override
    def readings(self) -> Future[Readings]:
        now: Future[Readings] = Future()
        now.set_result(readings(self._families))
        return now

    def _bounded(self, service: str, method: str, kind: str) -> tuple[str, str, str]:
        call = (kind, service, method)
        return call if call in self._known else (kind, OTHER, OTHER)
