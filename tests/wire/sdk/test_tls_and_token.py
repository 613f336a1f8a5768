"""Encryption and bearer tokens, by a real server with a certificate made for the test."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.certificates import make_certificates, needs_openssl
from support.server import FEATURES, GRU_BYTES, LSTM, ServerProcess

import carousel
from carousel._tls import disagreement

pytestmark = needs_openssl

ROW = np.ones(FEATURES, np.float32)
TOKENS = {"alice": "alice-secret", "bob": "bob-secret"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def guarded(models_dir: Path, certificates: Path) -> Iterator[ServerProcess]:
    """A server with TLS and a token for each of two tenants."""
    hashes = {who: hashlib.sha256(token.encode()).hexdigest() for who, token in TOKENS.items()}
    with ServerProcess(
        models_dir,
        slots=8,
        tls_cert=certificates / "server.pem",
        tls_key=certificates / "server.key",
        tokens=json.dumps(hashes),
    ) as process:
        yield process


@pytest.fixture
def tls(certificates: Path) -> carousel.TLS:
    return carousel.TLS(ca=(certificates / "ca.pem").read_bytes())


def client_of(
    server: ServerProcess, tls: carousel.TLS | bool | None, token: str | None
) -> carousel.Client:
    return carousel.Client(server.target, tls=tls, token=token, retries=0, timeout_s=60.0)


def test_whoever_has_the_token_is_let_in(guarded: ServerProcess, tls: carousel.TLS) -> None:
    with client_of(guarded, tls, TOKENS["alice"]) as client, client.session(LSTM) as session:
        np.testing.assert_allclose([session.step(ROW)], client.infer(LSTM, [ROW]), atol=1e-6)
        assert len(client.generate(GRU_BYTES, "a", max_tokens=3).text()) <= 3
        assert [info.id for info in client.sessions()] == [session.id]


async def test_the_asyncio_client_is_let_in_too(guarded: ServerProcess, tls: carousel.TLS) -> None:
    async with carousel.AsyncClient(guarded.target, tls=tls, token=TOKENS["bob"]) as client:
        async with client.session(LSTM) as session:
            assert (await session.step(ROW)).shape == (3,)
        tokens = [t async for t in client.generate(GRU_BYTES, "a", max_tokens=3)]
        assert len(tokens) == 3
    async with carousel.AsyncClient(guarded.target, tls=tls, token="wrong") as client:
        with pytest.raises(carousel.TokenInvalidError):
            await client.attach("s")
        with pytest.raises(carousel.TokenInvalidError):
            await client.generate(GRU_BYTES, "a").text()


def test_the_servers_of_a_list_and_of_a_name_are_checked(
    guarded: ServerProcess, tls: carousel.TLS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by its own host in a list, and by the name that was looked up."""
    port = guarded.target.rpartition(":")[2]
    real = socket.getaddrinfo

    def found(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        return real("127.0.0.1" if host == "other.example" else host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", found)
    for target in (f"{guarded.target},127.0.0.1:1", f"dns:///localhost:{port}"):
        client = carousel.Client(target, tls=tls, token=TOKENS["alice"], timeout_s=60.0)
        with client, client.session(LSTM) as session:
            assert session.step(ROW).shape == (3,)
    client = carousel.Client(f"dns:///other.example:{port}", tls=tls, retries=0)
    with client, pytest.raises(carousel.TlsError, match="for another name"):
        client.models()


@pytest.mark.parametrize("token", [None, "wrong", "", "alice-secret2"])
def test_every_door_is_closed_to_others(
    guarded: ServerProcess, tls: carousel.TLS, token: str | None
) -> None:
    with client_of(guarded, tls, token) as client:
        for door in (
            client.models,
            lambda: client.session(LSTM),
            lambda: client.attach("s"),
            lambda: client.infer(LSTM, [ROW]),
            lambda: client.generate(GRU_BYTES, "a").text(),
            lambda: list(client.sessions()),
            lambda: client.import_session(b"snapshot"),
        ):
            with pytest.raises(carousel.TokenInvalidError) as caught:
                door()
            assert isinstance(caught.value, PermissionError)
            assert token is None or not token or token not in str(caught.value)
        assert client.health() is carousel.Health.SERVING  # probes carry no token


def test_a_foreign_session_is_not_there(guarded: ServerProcess, tls: carousel.TLS) -> None:
    with (
        client_of(guarded, tls, TOKENS["alice"]) as alice,
        client_of(guarded, tls, TOKENS["bob"]) as bob,
        alice.session(LSTM, session_id="mine") as session,
    ):
        for reach in (bob.attach, bob.session_info, bob.close_session, bob.fork_session):
            with pytest.raises(carousel.SessionNotFoundError):
                reach("mine")
        assert not list(bob.sessions())
        session.step(ROW)


def test_a_connection_that_is_not_trusted_fails_by_name(
    guarded: ServerProcess, certificates: Path
) -> None:
    stranger = carousel.TLS(ca=(certificates / "client.pem").read_bytes())
    for tls in (None, True, stranger):
        with client_of(guarded, tls, TOKENS["alice"]) as client:
            with pytest.raises(carousel.ServerUnreachableError):
                client.models()
            with pytest.raises(carousel.ServerUnreachableError):
                client.attach("s")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_error_says_what_tls_has_to_do_with_it(
    guarded: ServerProcess, certificates: Path, kind: str
) -> None:
    stranger = carousel.TLS(ca=certificates / "client.pem")
    unnamed = carousel.TLS(ca=certificates / "ca.pem", server_name="carousel.example")
    for tls, cause, fix in (
        (None, "the server uses TLS", "--tls"),
        (stranger, "certificate is not trusted", "--ca"),
        (unnamed, "certificate is for another name", "server_name"),
    ):
        told = [failure(kind, guarded.target, tls, call) for call in CALLS]
        assert [type(error) for error in told] == [carousel.TlsError] * len(CALLS)
        assert all(cause in error.message and fix in error.fix for error in told)


CALLS = ("models", "attach", "generate")


def failure(
    kind: str, target: str, tls: carousel.TLS | None, call: str
) -> carousel.ServerUnreachableError:
    if kind == "sync":
        with carousel.Client(target, tls=tls, retries=0, timeout_s=60.0) as client:
            calls = {
                "models": client.models,
                "attach": lambda: client.attach("s"),
                "generate": lambda: client.generate(GRU_BYTES, "a").text(),
            }
            with pytest.raises(carousel.ServerUnreachableError) as caught:
                calls[call]()
        return caught.value

    async def awaited() -> carousel.ServerUnreachableError:
        async with carousel.AsyncClient(target, tls=tls, retries=0, timeout_s=60.0) as client:
            calls = {
                "models": client.models,
                "attach": lambda: client.attach("s").__aenter__(),
                "generate": lambda: client.generate(GRU_BYTES, "a").text(),
            }
            with pytest.raises(carousel.ServerUnreachableError) as caught:
                await calls[call]()
            return caught.value

    return asyncio.run(awaited())


REFUSED = "failed to connect to all addresses; last error: ipv6:[::1]:50051: Connection refused"
"""What gRPC may say of a name with several addresses, whatever happened at the others."""


def test_another_address_of_the_name_does_not_hide_the_cause(
    guarded: ServerProcess, server: ServerProcess, certificates: Path
) -> None:
    ca = certificates / "ca.pem"
    for reached, tls, cause in (
        (guarded, None, "the server uses TLS"),
        (guarded, carousel.TLS(), "certificate is not trusted"),
        (guarded, carousel.TLS(ca=certificates / "client.pem"), "certificate is not trusted"),
        (guarded, carousel.TLS(ca=ca, server_name="carousel.example"), "is for another name"),
        (server, carousel.TLS(ca=ca), "the server does not use TLS"),
    ):
        told = disagreement(carousel.ServerUnreachableError(REFUSED), reached.target, tls)
        assert told is not None
        assert cause in told.message
        assert "ipv6" not in told.message
    for reached, agreed in ((guarded, carousel.TLS(ca=ca)), (server, None)):
        assert (
            disagreement(carousel.ServerUnreachableError(REFUSED), reached.target, agreed) is None
        )


def test_a_client_with_tls_is_told_of_a_server_without(server: ServerProcess, tls: Any) -> None:
    told = failure("sync", server.target, tls, "models")
    assert isinstance(told, carousel.TlsError)
    assert "the server does not use TLS" in told.message


def test_tls_from_files_and_a_name_of_its_own(guarded: ServerProcess, certificates: Path) -> None:
    for ca in (certificates / "ca.pem", str(certificates / "ca.pem")):
        tls = carousel.TLS(ca=ca, server_name="localhost")
        with client_of(guarded, tls, TOKENS["alice"] + "\r\n") as client:
            assert client.model(LSTM).name == LSTM, "the token is taken without the line's end"


def test_a_server_that_asks_for_certificates(models_dir: Path, certificates: Path) -> None:
    ca = (certificates / "ca.pem").read_bytes()
    proven = carousel.TLS(
        ca=ca,
        certificate=(certificates / "client.pem").read_bytes(),
        key=(certificates / "client.key").read_bytes(),
    )
    with ServerProcess(
        models_dir,
        slots=8,
        tls_cert=certificates / "server.pem",
        tls_key=certificates / "server.key",
        tls_client_ca=certificates / "ca.pem",
    ) as server:
        with client_of(server, proven, None) as client, client.session(LSTM) as session:
            assert session.step(ROW).shape == (3,)
        with (
            client_of(server, carousel.TLS(ca=ca), None) as client,
            pytest.raises(carousel.ServerUnreachableError) as caught,
        ):
            client.models()
        assert isinstance(caught.value, carousel.TlsError)
        assert "client's certificate" in caught.value.message
        told = disagreement(
            carousel.ServerUnreachableError(REFUSED), server.target, carousel.TLS(ca=ca)
        )
        assert told is not None
        assert "client's certificate" in told.message
