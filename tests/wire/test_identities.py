"""Tokens and certificates to tenants on a real server, and what happens when their files change."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificates import make_certificates, needs_openssl
from support.server import LSTM, ServerProcess

import carousel

pytestmark = needs_openssl

TOKENS = {"alice": "alice-secret", "bob": "bob-secret"}


def hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


async def said(server: ServerProcess, text: str, count: int = 1) -> None:
    """Waits until the log has a line, `count` times."""
    async with asyncio.timeout(60):
        while server.text.count(text) < count:  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def tls_of(folder: Path, who: str) -> carousel.TLS:
    return carousel.TLS(folder / "ca.pem", folder / f"{who}.pem", folder / f"{who}.key")


@pytest.fixture(scope="module", params=[0, 1], ids=["one process", "front end"])
def mapped(
    request: pytest.FixtureRequest, models_dir: Path, certificates: Path
) -> Iterator[ServerProcess]:
    """Alice has a token and the certificate "client"; bob a token. "server" is nobody's."""
    with ServerProcess(
        models_dir,
        front_ends=request.param,
        tls_cert=certificates / "server.pem",
        tls_key=certificates / "server.key",
        tls_client_ca=certificates / "ca.pem",
        tokens=json.dumps({who: hashed(token) for who, token in TOKENS.items()}),
        certificates=json.dumps({"client": "alice"}),
    ) as process:
        yield process


def client_of(server: ServerProcess, tls: carousel.TLS, token: str | None) -> carousel.Client:
    return carousel.Client(server.target, tls=tls, token=token, retries=0, timeout_s=60.0)


def test_a_certificate_is_an_identity(mapped: ServerProcess, certificates: Path) -> None:
    mine, other = tls_of(certificates, "client"), tls_of(certificates, "server")
    with (
        client_of(mapped, mine, None) as by_certificate,
        client_of(mapped, other, TOKENS["alice"]) as by_token,
        client_of(mapped, mine, TOKENS["alice"]) as by_both,
        client_of(mapped, other, TOKENS["bob"]) as bob,
        by_certificate.session(LSTM, session_id="hers"),
    ):
        for client in (by_certificate, by_token, by_both):
            assert [info.id for info in client.sessions()] == ["hers"]
        assert not list(bob.sessions())


def test_identities_that_disagree_are_refused_by_name(
    mapped: ServerProcess, certificates: Path
) -> None:
    with client_of(mapped, tls_of(certificates, "client"), TOKENS["bob"]) as client:
        with pytest.raises(carousel.IdentityConflictError) as caught:
            client.models()
        assert isinstance(caught.value, carousel.UnauthorizedError)
    with (
        client_of(mapped, tls_of(certificates, "server"), None) as client,
        pytest.raises(carousel.TokenInvalidError),
    ):
        client.models()


@pytest.mark.parametrize("front_ends", [0, 1])
async def test_tokens_are_read_again(models_dir: Path, tmp_path: Path, front_ends: int) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(f'alice = "{hashed("old")}"')
    with ServerProcess(models_dir, tokens_file=path, front_ends=front_ends) as server:
        async with (
            carousel.AsyncClient(server.target, token="old", retries=0) as old,
            carousel.AsyncClient(server.target, token="new", retries=0) as new,
        ):
            session = old.session(LSTM)
            async with session:
                path.write_text(f'alice = ["{hashed("old")}", "{hashed("new")}"]')
                await said(server, "tokens were read again: 2 of 1 tenants")
                assert await old.models()
                assert await new.models()

                path.write_text("alice = ")
                await said(server, "tokens were not read again, the old ones count")
                assert await new.models()

                path.write_text(f'alice = "{hashed("new")}"')
                await said(server, "tokens were read again: 1 of 1 tenants")
                assert await new.models()
                with pytest.raises(carousel.TokenInvalidError):
                    await old.models()
        series = 'carousel_secret_reloads_total{{outcome="{}",what="tokens"}} {}.0'
        page = server.metrics_once(series.format("ok", 2))
        assert series.format("failed", 1) in page


@pytest.mark.parametrize("front_ends", [0, 1])
async def test_certificates_are_read_again(
    models_dir: Path, tmp_path: Path, front_ends: int
) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        make_certificates(tmp_path / name)
    ca = {name: carousel.TLS((tmp_path / name / "ca.pem").read_bytes()) for name in ("old", "new")}
    cert, key = tmp_path / "old/server.pem", tmp_path / "old/server.key"
    with ServerProcess(models_dir, tls_cert=cert, tls_key=key, front_ends=front_ends) as server:
        async with carousel.AsyncClient(server.target, tls=ca["old"], retries=0) as old:
            assert await old.models()
            (tmp_path / "new/server.key").replace(key)
            (tmp_path / "new/server.pem").replace(cert)
            await said(server, "tls were read again: for new connections")
            assert await old.models()  # its connection goes on
        async with carousel.AsyncClient(server.target, tls=ca["new"], retries=0) as new:
            assert await new.models()
        async with carousel.AsyncClient(server.target, tls=ca["old"], retries=0) as late:
            with pytest.raises(carousel.ServerUnreachableError):
                await late.models()
