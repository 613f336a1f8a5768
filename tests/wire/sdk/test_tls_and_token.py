"""Encryption and bearer tokens, by a real server with a certificate made for the test."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.server import FEATURES, GRU_BYTES, LSTM, ServerProcess

import carousel

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="the openssl command makes the certificates"
)

ROW = np.ones(FEATURES, np.float32)
TOKENS = {"alice": "alice-secret", "bob": "bob-secret"}
NAMES = "subjectAltName=IP:127.0.0.1,DNS:localhost"


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca, server and client: .pem and .key of each; the latter two are signed by the first."""
    folder = tmp_path_factory.mktemp("tls")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        folder, "req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem",
        "-days", "2", "-subj", "/CN=test authority",
    )  # fmt: skip
    (folder / "names").write_text(NAMES)
    for who in ("server", "client"):
        openssl(
            folder, "req", *new_key, "-keyout", f"{who}.key", "-out", f"{who}.csr",
            "-subj", f"/CN={who}",
        )  # fmt: skip
        openssl(
            folder, "x509", "-req", "-in", f"{who}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", f"{who}.pem",
        )  # fmt: skip
    return folder


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
            pytest.raises(carousel.ServerUnreachableError),
        ):
            client.models()
