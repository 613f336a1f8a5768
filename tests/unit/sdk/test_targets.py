"""Which targets are this machine's own: those never go by a proxy."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

import carousel
from carousel._options import options_of
from carousel._targets import look_up, target_of
from carousel._tls import host_and_port, is_local
from carousel.testing import FakeServer

LOCAL = [
    "localhost:50051", "LOCALHOST.:1", "carousel.localhost:1", "127.0.0.1:1", "127.8.9.1:1",
    "[::1]:1", "dns:localhost:1", "dns:///localhost:1", "dns://8.8.8.8/localhost:1",
    "ipv4:127.0.0.1:1", "ipv6:[::1]:1", "ipv6:%5B::1%5D:1", "passthrough:///127.0.0.1:1",
    "ipv4:127.0.0.1:1,127.0.0.1:2", "unix:/run/carousel.sock", "unix-abstract:carousel",
]  # fmt: skip
OTHER = [
    "carousel:50051", "localhost.example:1", "10.0.0.1:1", "[2001:db8::1]:1", "dns:///carousel:1",
    "ipv4:10.0.0.1:1", "notlocalhost:1", "localhost", "xds:///localhost", "",
]  # fmt: skip


@pytest.mark.parametrize("target", LOCAL)
def test_this_machine(target: str) -> None:
    assert is_local(target)
    options = options_of(target, None, None, 5.0, 1).channel_options(target)
    assert ("grpc.enable_http_proxy", 0) in options


@pytest.mark.parametrize("target", OTHER)
def test_other_machines(target: str) -> None:
    assert not is_local(target)
    if target:
        options = options_of(target, None, None, 5.0, 1).channel_options(target)
        assert "grpc.enable_http_proxy" not in dict(options)


def test_hosts_and_ports() -> None:
    assert host_and_port("dns:///[::1]:7") == ("::1", 7)
    assert host_and_port("carousel:50051") == ("carousel", 50051)
    assert host_and_port("unix:/a/b") is None
    assert host_and_port("carousel") is None


@pytest.mark.parametrize(
    ("target", "addresses"),
    [
        ("a:1", ("a:1",)),
        ("a:1,b:2", ("a:1", "b:2")),
        (" a:1 , [::1]:2 ", ("a:1", "[::1]:2")),
        ("ipv4:10.0.0.1:1,10.0.0.2:1", ("ipv4:10.0.0.1:1,10.0.0.2:1",)),
        ("dns:a:1", ("dns:a:1",)),
        ("dns://8.8.8.8/a:1", ("dns://8.8.8.8/a:1",)),
        ("unix:/a,b", ("unix:/a,b",)),
    ],
)
def test_the_servers_of_a_target(target: str, addresses: tuple[str, ...]) -> None:
    found = target_of(target)
    assert found.addresses == addresses
    assert found.several == (len(addresses) > 1)


def test_a_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    found = target_of("dns:///carousel:7")
    assert (found.host, found.port, found.addresses, found.several) == ("carousel", 7, (), True)
    answers = [(10, 1, 6, "", ("fd00::2", 7, 0, 0)), (2, 1, 6, "", ("10.0.0.2", 7))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [*answers, answers[1]])
    assert look_up(found) == ("10.0.0.2:7", "[fd00::2]:7")
    assert target_of("dns:///[::1]:7").host == "::1"


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("", "empty"),
        ("a:1,", "empty item"),
        ("a:1,,b:1", "empty item"),
        ("a:1,b:1,a:1", "a:1 twice"),
        ("a:1,b", "'b' is not host:port"),
        ("a,b", "'a' is not host:port"),
        ("a:1,b:99999", "'b:99999' is not host:port"),
        ("a:1,::1:2", "'::1:2' is not host:port"),
        ("a:1,dns:///b:1", "'dns:///b:1' in a list"),
        ("dns:///a:1,b:1", "'dns:///a:1' in a list"),
        ("a:1,ipv4:1.2.3.4:1", "'ipv4:1.2.3.4:1' in a list"),
        ("http://a:1,b:1", "'http://a:1' in a list"),
        ("dns:///a", "'a' is not host:port"),
        ("dns:///", "empty item"),
        (f"dns:///{'x' * 64}:1", "is no name"),
        ("dns:///a..b:1", "is no name"),
    ],
)
def test_a_target_that_is_not_well_formed_is_refused_and_the_form_is_said(
    target: str, cause: str
) -> None:
    for make in (carousel.Client, carousel.AsyncClient):
        with pytest.raises(carousel.FieldInvalidError) as caught:
            make(target)
        assert cause in caught.value.message
        assert "a:50051,b:50051 for several" in caught.value.message


def test_the_servers_behind_a_name_have_its_certificate() -> None:
    def name(target: str, address: str, tls: carousel.TLS | bool | None) -> object:
        options = options_of(target, None, tls, 5.0, 1).channel_options(address)
        return dict(options).get("grpc.ssl_target_name_override")

    assert name("dns:///carousel:1", "10.0.0.1:1", True) == "carousel"
    assert name("dns:///carousel:1", "10.0.0.1:1", None) is None
    assert name("dns:///carousel:1", "10.0.0.1:1", carousel.TLS(server_name="x")) == "x"
    assert name("a:1,b:1", "b:1", True) is None
    assert name("a:1", "a:1", True) is None


def test_a_silent_server_of_several_is_noticed_sooner() -> None:
    one = dict(options_of("a:1", None, None, 5.0, 1).channel_options("a:1"))
    several = dict(options_of("a:1,b:1", None, None, 5.0, 1).channel_options("a:1"))
    assert "grpc.min_reconnect_backoff_ms" not in one
    assert several["grpc.min_reconnect_backoff_ms"] == 2_000
    assert several["grpc.keepalive_time_ms"] < one["grpc.keepalive_time_ms"]


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Listens where all proxy variables point."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, address)
        for name in ("no_proxy", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield listener


async def test_a_server_on_this_machine_is_reached_without_the_proxy(
    fake: FakeServer, proxy: socket.socket
) -> None:
    with carousel.Client(fake.target, timeout_s=30) as client:
        assert client.health() is carousel.Health.SERVING
    async with carousel.AsyncClient(fake.target, timeout_s=30) as client:
        assert await client.health() is carousel.Health.SERVING
    proxy.setblocking(False)
    with pytest.raises(BlockingIOError):
        proxy.accept()


def test_another_machine_is_reached_by_the_proxy(proxy: socket.socket) -> None:
    asked: list[bytes] = []

    def answer() -> None:
        connection, _ = proxy.accept()
        with connection:
            asked.append(connection.recv(4096))

    thread = threading.Thread(target=answer)
    thread.start()
    client = carousel.Client("192.0.2.1:50051", timeout_s=30, retries=0)
    with client, pytest.raises(carousel.ClientSideError):
        client.models()
    thread.join()
    assert asked[0].startswith(b"CONNECT 192.0.2.1:50051 ")
