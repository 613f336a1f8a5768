"""What the network policies of deploy/kubernetes let pass: what each side needs, and nothing else."""

from __future__ import annotations

import pytest

from .kubectl import Manifest
from .kubernetes import Peer, allowed, composed

REPLICA = Peer({"app.kubernetes.io/name": "carousel", "app.kubernetes.io/component": "server"})
STORE = Peer({"app.kubernetes.io/name": "valkey", "app.kubernetes.io/component": "carousel-store"})
CLIENT = Peer({"app": "shop", "carousel-client": "true"})
DNS = Peer({"k8s-app": "kube-dns"}, "kube-system")
PROMETHEUS = Peer({"app.kubernetes.io/name": "prometheus"}, "monitoring")
INTERNET = Peer("203.0.113.7")


@pytest.fixture(scope="module")
def policies() -> list[Manifest]:
    return composed("monitoring", "valkey").of("NetworkPolicy")


@pytest.mark.parametrize(
    ("other", "port"),
    [
        (CLIENT, "grpc"),
        (Peer({"app": "shop"}, "shop", carousel_client="true"), "grpc"),
        (PROMETHEUS, "metrics"),
    ],
    ids=["client here", "client of another namespace", "Prometheus"],
)
def test_a_replica_accepts(policies: list[Manifest], other: Peer, port: str) -> None:
    assert allowed(policies, "ingress", REPLICA, other, port)


@pytest.mark.parametrize(
    ("other", "port"),
    [
        (Peer({"app": "shop"}), "grpc"),
        (Peer({"carousel-client": "true"}, "shop"), "grpc"),
        (PROMETHEUS, "grpc"),
        (CLIENT, "metrics"),
        (Peer({"app.kubernetes.io/name": "prometheus"}), "metrics"),
        (REPLICA, "grpc"),
        (INTERNET, "grpc"),
    ],
    ids=[
        *("no label", "a label that its namespace gave itself", "Prometheus at gRPC"),
        *("client at metrics", "a false Prometheus", "another replica", "the internet"),
    ],
)
def test_a_replica_refuses(policies: list[Manifest], other: Peer, port: str) -> None:
    assert not allowed(policies, "ingress", REPLICA, other, port)


@pytest.mark.parametrize(("other", "port"), [(STORE, 6379), (DNS, 53)], ids=["store", "DNS"])
def test_a_replica_reaches(policies: list[Manifest], other: Peer, port: int) -> None:
    assert allowed(policies, "egress", REPLICA, other, port)


@pytest.mark.parametrize(
    ("other", "port"),
    [(STORE, 22), (REPLICA, "grpc"), (CLIENT, 80), (DNS, 443), (INTERNET, 443)],
    ids=["store's other ports", "replica", "client", "control plane", "the internet"],
)
def test_a_replica_does_not_reach(policies: list[Manifest], other: Peer, port: int | str) -> None:
    assert not allowed(policies, "egress", REPLICA, other, port)


def test_only_replicas_reach_the_store(policies: list[Manifest]) -> None:
    assert allowed(policies, "ingress", STORE, REPLICA, "redis")
    assert not allowed(policies, "ingress", STORE, CLIENT, "redis")
    assert not allowed(policies, "ingress", STORE, PROMETHEUS, "redis")
    assert not allowed(policies, "egress", STORE, INTERNET, 443)


def test_without_monitoring_nobody_reads_the_metrics() -> None:
    base = composed().of("NetworkPolicy")
    assert not allowed(base, "ingress", REPLICA, PROMETHEUS, "metrics")
    assert allowed(base, "ingress", REPLICA, CLIENT, "grpc")
