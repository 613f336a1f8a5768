"""A pod's life, with a real server, a real store and the variables, probes and commands of the manifests."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.certificates import make_certificates, needs_openssl
from support.redis import RedisServer, free_port

import carousel

from .kubernetes import overlay
from .pods import MODEL, Pod, SecretVolume, Walk

CLIENTS = 4


def store(folder: Path) -> RedisServer:
    """Debian's Redis with the arguments of the manifests' Valkey."""
    pod = overlay("try").one("StatefulSet", "carousel-valkey")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {"/data"}
    return RedisServer(folder, *(word.replace("/data", str(folder)) for word in container["args"]))


def test_the_stores_probe_tells_whether_it_answers(tmp_path: Path) -> None:
    pod = overlay("try").one("StatefulSet", "carousel-valkey")["spec"]["template"]["spec"]
    command = pod["containers"][0]["readinessProbe"]["exec"]["command"]
    assert command[0] == "valkey-cli"
    with store(tmp_path) as running:
        cli = ["redis-cli", "-p", str(running.port), *command[1:]]
        assert subprocess.run(cli, capture_output=True, check=False).returncode == 0
        running.kill()
        assert subprocess.run(cli, capture_output=True, check=False).returncode != 0


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_a_pod_starts_drains_and_comes_back_without_a_lost_step(tmp_path: Path) -> None:
    manifests = overlay("try")
    grace_s = manifests.pod["spec"]["terminationGracePeriodSeconds"]
    port = free_port()
    with store(tmp_path) as running:
        addresses = {
            "carousel-valkey:6379": f"127.0.0.1:{running.port}",
            "127.0.0.1:50051": f"127.0.0.1:{port}",
        }

        def pod() -> Pod:
            made = Pod(manifests, "carousel-0", addresses)
            made._environment["CAROUSEL_PORT"] = str(port)
            return made

        with pod() as first:
            probes = {name: first.probe(name) for name in ("startup", "readiness", "liveness")}
            assert probes == {"startup": 200, "readiness": 200, "liveness": 200}
            walks = [Walk(first.target, seed) for seed in range(CLIENTS)]
            for walk in walks:
                walk.start()
            for walk in walks:
                walk.wait_for_more(20)
            began = time.monotonic()
            assert first.pre_stop() == 0
            left_s = grace_s - (time.monotonic() - began)
            for walk in walks:
                walk.wait_for_more(1)  # it serves until SIGTERM
            first.signal()
            assert first.process.wait(left_s) == 0, "a SIGKILL would follow"
        with pod() as again:
            for walk in walks:
                walk.wait_for_more(20)
            for walk in walks:
                walk.finish()
            for walk in walks:
                assert walk.outputs == pytest.approx(undisturbed(again, walk), abs=1e-5)


def undisturbed(pod: Pod, walk: Walk) -> list[float]:
    """The outputs of the same inputs in a session that nothing happens to."""
    with carousel.Client(pod.target) as client, client.session(MODEL) as session:
        rows = np.array(walk.inputs, np.float32)[:, None]
        return [float(output[0]) for output in session.stream(rows)]


def until(holds: Callable[[], bool]) -> None:
    """Returns when something holds. The server looks at its files every second."""
    give_up = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.1)


@needs_openssl
def test_secrets_that_kubernetes_replaces_count_without_a_restart(tmp_path: Path) -> None:
    manifests = overlay("production")
    tls, tokens = SecretVolume(tmp_path / "tls"), SecretVolume(tmp_path / "tokens")
    made = []
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        made.append(make_certificates(tmp_path / name))
    old, new = made

    def publish(certificates: Path, token: bytes) -> None:
        tls.publish(
            tls_crt=(certificates / "server.pem").read_bytes(),
            tls_key=(certificates / "server.key").read_bytes(),
        )
        digest = hashlib.sha256(token).hexdigest()
        tokens.publish(tokens_toml=f'acme = "{digest}"\n'.encode())

    publish(old, b"first")
    places = {"/etc/carousel/tls": str(tls.folder), "/etc/carousel/tokens": str(tokens.folder)}
    with Pod(manifests, "carousel-0", places, **{"carousel-store": "memory"}) as pod:

        def served(certificates: Path, token: str) -> bool:
            trusted = carousel.TLS(ca=certificates / "ca.pem")
            client = carousel.Client(pod.target, token=token, tls=trusted, retries=0)
            try:
                with client:
                    return bool(client.models())
            except carousel.CarouselError:
                return False

        assert served(old, "first")
        assert not served(old, "second")
        publish(new, b"second")
        until(lambda: served(new, "second"))
        assert not served(new, "first")
        assert not served(old, "second")
        assert pod.probe("readiness") == 200
