"""The endpoint serves text and OpenMetrics, on the address it was given and no other."""

from __future__ import annotations

import http.client
import socket
import struct
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from carousel_server.core.types import ModelView
from carousel_server.metrics import METRICS, Check, Metrics, MetricsServer, Probes
from carousel_server.metrics.endpoint import _QuietRequest


@pytest.fixture
def server(metrics: Metrics, model: ModelView) -> Iterator[MetricsServer]:
    metrics.engine(model, 8)
    metrics.wire()
    server = metrics.serve("127.0.0.1", 0)
    yield server
    server.stop()


def get(port: int, path: str = "/metrics", **headers: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        return reply.status, reply.headers["Content-Type"], reply.read().decode()
    finally:
        connection.close()


def test_text_is_the_default(server: MetricsServer) -> None:
    status, content_type, body = get(server.port)
    assert status == 200
    assert content_type.startswith("text/plain")
    assert 'carousel_slots_capacity{model="m"} 8.0' in body


def test_openmetrics_for_those_who_ask(server: MetricsServer) -> None:
    status, content_type, body = get(server.port, Accept="application/openmetrics-text")
    assert status == 200
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")
    families = {family.name: family for family in text_string_to_metric_families(body)}
    for told in METRICS.values():
        if told.owner == "process":
            continue
        assert families[told.base_name].type == told.kind
        assert families[told.base_name].unit == told.exposed_unit


def test_every_other_path_is_not_found(server: MetricsServer) -> None:
    for path in ("/", "/favicon.ico", "/metrics/../etc"):
        assert get(server.port, path)[0] == 404


def test_stop_frees_the_port_and_may_be_repeated(metrics: Metrics) -> None:
    server = metrics.serve("127.0.0.1", 0)
    port = server.port
    server.stop()
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    metrics.serve("127.0.0.1", port).stop()


def test_only_the_given_address_is_bound(server: MetricsServer) -> None:
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", server.port), timeout=5)


def test_a_taken_port_is_an_error(server: MetricsServer) -> None:
    with pytest.raises(OSError, match="in use"):
        MetricsServer(Metrics().registry, "127.0.0.1", server.port)


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_is_served(metrics: Metrics, host: str) -> None:
    server = metrics.serve(host, 0)
    try:
        with urllib.request.urlopen(f"http://[::1]:{server.port}/metrics") as reply:
            assert reply.status == 200
    finally:
        server.stop()


def test_a_scraper_that_hangs_up_is_no_news(server, capfd, monkeypatch):
    """Probes of the port alone come every few seconds, and would each leave a traceback."""
    monkeypatch.setattr(_QuietRequest, "timeout", 0.05)
    reset = struct.pack("ii", 1, 0)
    with socket.create_connection(("127.0.0.1", server.port)) as rude:
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)  # close() sends RST
        rude.send(b"GET /met")
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as silent:
        assert silent.recv(1) == b""  # closed by the server
    assert get(server.port)[0] == 200
    assert capfd.readouterr().err == ""


def test_a_defect_in_a_scrape_is_logged(server, caplog, monkeypatch):
    def fail(*_):
        raise KeyError("a defect")

    monkeypatch.setattr(_QuietRequest, "handle", fail)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as scraper:
        assert scraper.recv(1) == b""
    assert "a defect" in caplog.text


# -- probes


@pytest.fixture
def probed(metrics: Metrics) -> Iterator[tuple[MetricsServer, list[Check]]]:
    """A server, and what is not well with it."""
    checks = [Check("model m"), Check("store")]
    server = metrics.serve("127.0.0.1", 0, Probes(live=lambda: checks[:1], ready=lambda: checks))
    yield server, checks
    server.stop()


def test_a_server_that_is_well_is_ready(probed: tuple[MetricsServer, list[Check]]) -> None:
    server, _ = probed
    assert get(server.port, "/readyz") == (
        200, "text/plain; charset=utf-8", "ok model m\nok store\nok\n"
    )  # fmt: skip
    assert get(server.port, "/livez")[2] == "ok model m\nok\n"


def test_one_check_that_fails_makes_it_unready_and_says_why(
    probed: tuple[MetricsServer, list[Check]],
) -> None:
    server, checks = probed
    checks[1] = Check("store", "the store's disk is full")
    status, _, text = get(server.port, "/readyz")
    assert (status, text) == (
        503, "ok model m\nfailed store: the store's disk is full\nfailed\n"
    )  # fmt: skip
    assert get(server.port, "/livez")[0] == 200, "no restart mends a disk"


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_only_reading_is_allowed(server: MetricsServer, path: str) -> None:
    for method, status in (("HEAD", 200), ("POST", 405), ("DELETE", 405)):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request(method, path)
        reply = connection.getresponse()
        assert reply.status == status
        assert reply.getheader("Allow") == (None if status == 200 else "GET, HEAD")
        reply.read()
        connection.close()


def test_without_checks_whoever_answers_is_well(server: MetricsServer) -> None:
    assert get(server.port, "/livez")[::2] == (200, "ok\n")
    assert get(server.port, "/readyz")[::2] == (200, "ok\n")
