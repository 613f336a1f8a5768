"""The compose profile `scale`, run on loopback: its commands, variables and files, with other addresses."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.proxies import DEPLOY, HAProxy, Proxy, haproxy
from support.redis import free_port
from support.server import FEATURES, LSTM, ServerProcess

import carousel

from .prometheus import Prometheus

ROOT = DEPLOY.parent
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())[
    "services"
]
REPLICAS = [name for name in SERVICES if name.startswith("replica-")]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the service `valkey`, which is Debian's redis-server here."""
    for name in ("valkey-server", "redis-server"):
        if (program := shutil.which(name)) is not None:
            break
    else:
        pytest.skip("redis-server is missing: apt-get install redis-server")
    _, *options = SERVICES["valkey"]["command"]
    port = free_port()
    command = [program, *options, "--port", str(port), "--bind", "127.0.0.1"]
    folder = tmp_path_factory.mktemp("valkey")
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = b""
    for line in process.stdout:
        said += line
        if b"Ready to accept connections" in line:
            break
    assert process.poll() is None, said
    yield port
    process.kill()
    process.communicate()
    assert list(folder.rglob("*.aof*")), "changes are written"


@pytest.fixture(scope="module")
def replicas(models_dir: Path, store: int) -> Iterator[dict[str, ServerProcess]]:
    """The three, with the variables of their services."""
    with ExitStack() as running:
        started = {}
        for name in REPLICAS:
            given = SERVICES[name]["environment"]
            environment = {
                key: str(value).replace("valkey:6379", f"127.0.0.1:{store}")
                for key, value in given.items()
                if key != "CAROUSEL_ADVERTISE"  # the names of containers lead nowhere here
            }
            started[name] = running.enter_context(
                ServerProcess(models_dir, environment=environment)
            )
        yield started


@pytest.fixture(scope="module")
def proxy(
    replicas: dict[str, ServerProcess], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HAProxy]:
    with HAProxy(tmp_path_factory.mktemp("haproxy")) as running:
        running.serve(list(replicas.values()))
        yield running


@pytest.fixture(scope="module")
def prometheus(
    replicas: dict[str, ServerProcess], proxy: HAProxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """With the committed configuration, whose names are addresses here."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is missing: apt-get install prometheus")
    ports = {name: replica.metrics_port for name, replica in replicas.items()}
    ports["haproxy"] = proxy.admin_port
    with Prometheus(tmp_path_factory.mktemp("prometheus"), config=on_loopback(ports)) as running:
        yield running


def on_loopback(ports: dict[str, int]) -> dict[str, Any]:
    """prometheus.yml with the addresses that DNS would give, and often enough for a test."""
    config: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"]["scrape_interval"] = "500ms"
    config["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in config["rule_files"]]
    for job in config["scrape_configs"]:
        (discovery,) = job.pop("dns_sd_configs")
        job["static_configs"] = [
            {"targets": [f"127.0.0.1:{ports[name]}"], "labels": {"__meta_dns_name": name}}
            for name in discovery["names"]
            if name in ports
        ]
    return config


def test_the_replicas_differ_by_their_names_only() -> None:
    assert len(REPLICAS) == 3
    for name in REPLICAS:
        assert SERVICES[name]["environment"]["CAROUSEL_REPLICA"] == name
        assert SERVICES[name]["environment"]["CAROUSEL_ADVERTISE"] == f"{name}:50051"
        first = {**SERVICES[REPLICAS[0]], "environment": None}
        assert {**SERVICES[name], "environment": None} == first
        assert "ports" not in SERVICES[name], "clients come through the proxy"


def test_haproxy_knows_the_replicas_by_their_services() -> None:
    recipe = (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
    assert set(re.findall(r"^    server \S+ ([\w-]+):", recipe, re.MULTILINE)) == set(REPLICAS)
    (mount,) = SERVICES["haproxy"]["volumes"]
    assert mount.split(":")[:2] == ["./deploy/haproxy", "/usr/local/etc/haproxy"]
    version = subprocess.run([haproxy(), "-v"], capture_output=True, text=True, check=True).stdout
    tag = re.search(r":(\d+\.\d+)\.", SERVICES["haproxy"]["image"])
    assert tag
    assert f"version {tag[1]}." in version, "the tests run another version than the image"


def test_the_health_check_of_haproxy_is_a_page_that_it_has(proxy: HAProxy) -> None:
    url = SERVICES["haproxy"]["healthcheck"]["test"][-1]
    port, path = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/\S*)", url).groups()  # type: ignore[union-attr]
    assert f"bind :{port}" in (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
    assert "OK" in proxy.page(path)


def test_a_client_steps_through_the_whole_stack(
    proxy: Proxy, replicas: dict[str, ServerProcess]
) -> None:
    rows = np.random.default_rng(3).standard_normal((20, FEATURES)).astype(np.float32)
    found = []
    for target in (proxy.target, replicas["replica-1"].target):
        with carousel.Client(target) as client, client.session(LSTM) as session:
            found.append(session.steps(rows))
            assert session.info().durability == "async"
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_prometheus_sees_each_replica_by_its_name_and_the_proxy(
    proxy: Proxy, prometheus: Prometheus
) -> None:
    prometheus.wait_for('count(up{job="carousel"} == 1) == 3')
    found = prometheus.query('up{job="carousel"}')
    assert {series["metric"]["instance"] for series in found} == set(REPLICAS)
    prometheus.wait_for('sum(haproxy_server_status{proxy="replicas",state="UP"}) == 3')
