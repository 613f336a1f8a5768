"""The budget of abandoned calls, and the closing of one connection among many."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from carousel_server.wire.abandoned import AbandonedCalls, address_of, close_connection

HOME, AWAY = "ipv4:10.0.0.1:5001", "ipv4:10.0.0.2:5001"


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_burst_is_forgiven_and_time_gives_it_back(clock: Clock) -> None:
    calls = AbandonedCalls(1.0, 0, clock)
    assert [calls.exceeds(HOME) for _ in range(21)] == [False] * 20 + [True]
    assert not calls.exceeds(AWAY)
    clock.now_s = 1.0
    assert [calls.exceeds(HOME) for _ in range(2)] == [False, True]


def test_connections_of_one_address_share_its_budget(clock: Clock) -> None:
    calls = AbandonedCalls(0.001, 3, clock)
    verdicts = [calls.exceeds(f"ipv6:%5B::1%5D:{port}") for port in range(4)]
    assert verdicts == [False, False, False, True]


def test_zero_sets_no_limit(clock: Clock) -> None:
    calls = AbandonedCalls(0.0, 1, clock)
    assert not any(calls.exceeds(HOME) for _ in range(1000))


def test_many_addresses_take_no_more_memory(clock: Clock) -> None:
    calls = AbandonedCalls(0.001, 1, clock)
    for number in range(10_000):
        calls.exceeds(f"ipv4:10.0.{number // 256}.{number % 256}:1")
    assert len(calls._left) <= 4096
    assert calls.exceeds("ipv4:10.0.39.15:2")  # the last one is remembered


@pytest.mark.parametrize(
    ("peer", "address"),
    [(HOME, "ipv4:10.0.0.1"), ("ipv6:%5B::1%5D:7", "ipv6:%5B::1%5D"), ("unknown", "unknown")],
)
def test_an_address_has_no_port(peer: str, address: str) -> None:
    assert address_of(peer) == address


# -- closing


@pytest.fixture(params=["127.0.0.1", "::1", "mapped"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[str, int, socket.socket, socket.socket]]:
    """The peer's name as gRPC gives it, our port, the client's socket and the server's."""
    host = request.param
    family = socket.AF_INET if host == "127.0.0.1" else socket.AF_INET6
    with closing(socket.socket(family)) as listener:
        if host == "mapped":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::" if host == "mapped" else host, 0))
        listener.listen()
        port = listener.getsockname()[1]
        client = socket.create_connection(("127.0.0.1" if host == "mapped" else host, port))
        server, _ = listener.accept()
        with closing(client), closing(server):
            shown = f"ipv6:%5B{host}%5D" if host == "::1" else "ipv4:127.0.0.1"
            yield f"{shown}:{client.getsockname()[1]}", port, client, server


def test_the_connection_of_a_peer_is_closed(
    pair: tuple[str, int, socket.socket, socket.socket],
) -> None:
    peer, port, client, server = pair
    before = len(list(Path("/dev/fd").iterdir()))
    assert not close_connection(peer, port + 1)  # not one that this process opened to elsewhere
    assert close_connection(peer, port)
    assert client.recv(1) == b""
    assert server.fileno() >= 0  # its owner closes it
    assert len(list(Path("/dev/fd").iterdir())) == before


@pytest.mark.parametrize("peer", ["", "unix:/tmp/x", "ipv4:127.0.0.1:1", "ipv4:nonsense"])
def test_a_peer_that_is_not_here_is_not_found(peer: str) -> None:
    assert not close_connection(peer, 50051)
