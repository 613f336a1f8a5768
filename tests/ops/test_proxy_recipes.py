"""HAProxy and Envoy take our recipes, and these agree with the server's settings and with each other."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.certificates import make_certificates, needs_openssl
from support.proxies import DEPLOY, SESSION_HEADER, Envoy, HAProxy, Proxy, haproxy

from carousel_server.process.config import Settings

HAPROXY = (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
ENVOY = yaml.safe_load((DEPLOY / "envoy" / "envoy.yaml").read_text())
(CLUSTER,) = yaml.safe_load((DEPLOY / "envoy" / "clusters.yaml").read_text())["resources"]
HTTP = ENVOY["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
ROUTE = HTTP["route_config"]["virtual_hosts"][0]["routes"][0]["route"]


def default(setting: str) -> Any:
    return Settings.model_fields[setting].default


def haproxy_value(keyword: str) -> str:
    (value,) = re.findall(rf"^    {re.escape(keyword)} (\S+)$", HAPROXY, re.MULTILINE)
    return str(value)


def test_haproxy_takes_the_recipe_as_it_is() -> None:
    done = subprocess.run(
        [haproxy(), "-c", "-f", DEPLOY / "haproxy" / "haproxy.cfg"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    others = [
        line
        for line in done.stderr.splitlines()
        if line.startswith("[WARNING]") and "could not resolve address" not in line
    ]
    assert not others


@dataclass(frozen=True)
class Somewhere:
    """A replica that need not be there."""

    port: int
    metrics_port: int
    host: str = "127.0.0.1"


VALIDATE = {
    HAProxy: lambda proxy: [*proxy.command(), "-c"],
    Envoy: lambda proxy: [*proxy.command(), "--mode", "validate"],
}


@needs_openssl
@pytest.mark.parametrize("tls", ["plain", "tls", "both"])
@pytest.mark.parametrize("kind", VALIDATE)
def test_the_proxies_take_the_recipes_with_addresses(
    kind: type[Proxy], tls: str, tmp_path: Path
) -> None:
    """For plain clients, for clients with TLS, and with TLS towards the replicas too."""
    certificates = None if tls == "plain" else make_certificates(tmp_path)
    proxy = kind(tmp_path, certificates=certificates, replica_tls=tls == "both")
    proxy.write([Somewhere(50051, 9464), Somewhere(50052, 9465)])
    done = subprocess.run(
        VALIDATE[kind](proxy), env=os.environ | proxy.environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "deprecated" not in done.stderr.lower()


def test_both_place_calls_by_the_same_metadata() -> None:
    for line in (f"    balance hdr({SESSION_HEADER})\n", "    hash-type consistent\n"):
        assert HAPROXY.count(line) == 2, "where replicas are ready, and where none is"
    assert ROUTE["hash_policy"] == [{"header": {"header_name": SESSION_HEADER}}]
    assert CLUSTER["lb_policy"] == "RING_HASH"


def test_limits_are_those_of_the_server() -> None:
    calls = default("max_streams") + default("max_calls_per_connection")
    connections = default("max_connections")
    assert haproxy_value("tune.h2.max-concurrent-streams") == str(calls)
    assert haproxy_value("maxconn") == str(connections)
    assert HTTP["http2_protocol_options"]["max_concurrent_streams"] == calls
    (monitor,) = ENVOY["overload_manager"]["resource_monitors"]
    assert monitor["typed_config"]["max_active_downstream_connections"] == connections
    (thresholds,) = CLUSTER["circuit_breakers"]["thresholds"]
    assert thresholds["max_connections"] == connections


def test_a_stream_may_be_silent_for_as_long_as_its_sessions_may_be_idle() -> None:
    idle_s = default("idle_ttl_s")
    for side in ("client", "server"):
        assert int(haproxy_value(f"timeout {side}").removesuffix("m")) * 60 > idle_s
    assert int(HTTP["stream_idle_timeout"].removesuffix("s")) > idle_s
    assert ROUTE["timeout"] == "0s"


def test_only_what_no_replica_has_run_is_tried_again() -> None:
    """A server answers CANCELLED only to a call that no handler has begun, since it stops."""
    assert haproxy_value("retry-on") == "conn-failure"
    assert set(ROUTE["retry_policy"]["retry_on"].split(",")) == {
        "connect-failure",
        "refused-stream",
        "reset-before-request",
        "cancelled",
    }


def test_a_hanging_replica_is_cut_off_within_its_lease_or_soon_after() -> None:
    inter_s, fall = map(int, re.findall(r"inter (\d+)s fall (\d+)", HAPROXY)[0])
    check_s = int(haproxy_value("timeout check").removesuffix("s"))
    pings = CLUSTER["typed_extension_protocol_options"]
    (options,) = pings.values()
    keepalive = options["explicit_http_config"]["http2_protocol_options"]["connection_keepalive"]
    for seconds in (
        fall * (inter_s + check_s),
        sum(int(keepalive[part].removesuffix("s")) for part in ("interval", "timeout")),
    ):
        assert seconds <= default("lease_ttl_s")


def test_the_replicas_and_their_ports_are_the_same_everywhere() -> None:
    names = re.findall(r"^    server (\S+) (\S+):(\d+) id (\d)$", HAPROXY, re.MULTILINE)
    assert names[:3] == names[3:]
    spread = re.findall(r"^    server (\S+) (\S+:\d+) track (\S+)$", HAPROXY, re.MULTILINE)
    assert spread == [(name, f"{host}:{at}", f"replicas/{name}") for name, host, at, _ in names[:3]]
    endpoints = [
        point["endpoint"]["address"]["socket_address"]
        for point in CLUSTER["load_assignment"]["endpoints"][0]["lb_endpoints"]
    ]
    assert [point["address"] for point in endpoints] == [name for name, _, _, _ in names[:3]]
    port = default("port")
    assert {point["port_value"] for point in endpoints} == {port}
    for number, (name, host, at, hashed) in enumerate(names[:3], 1):
        assert (name, host, int(at), int(hashed)) == (f"replica-{number}", name, port, number)
    assert f"check port {default('metrics_port')} " in HAPROXY
