"""The HTTP door with TLS: the certificates of gRPC, read again when they change."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest
from support.certificates import make_certificates

from carousel_server.wire import TlsPaths, read_tls


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def verified(folder: Path, *, client: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    if client:
        context.load_cert_chain(folder / "client.pem", folder / "client.key")
    return context


async def asked(door, context) -> httpx.Response:
    async with httpx.AsyncClient(verify=context) as client:
        return await client.get(f"https://localhost:{door.port}/api/models")


def tls_of(folder: Path, *, client_ca: bool):
    ca = folder / "ca.pem" if client_ca else None
    return read_tls(TlsPaths(folder / "server.pem", folder / "server.key", ca))


async def test_the_certificate_of_grpc(start_doors, folder):
    door = await start_doors(tls=tls_of(folder, client_ca=False), host="localhost")
    assert (await asked(door, verified(folder, client=False))).status_code == 200
    with pytest.raises(httpx.ConnectError):
        await asked(door, ssl.create_default_context())


async def test_a_tenant_by_its_certificate(start_doors, folder):
    tls = tls_of(folder, client_ca=True)
    door = await start_doors(tls=tls, host="localhost", certificates={"client": "mine"})
    assert (await asked(door, verified(folder, client=True))).status_code == 200
    with pytest.raises((httpx.ConnectError, httpx.ReadError, ssl.SSLError)):
        await asked(door, verified(folder, client=False))


async def test_an_unknown_certificate(start_doors, folder):
    tls = tls_of(folder, client_ca=True)
    door = await start_doors(tls=tls, host="localhost", certificates={"other": "mine"})
    reply = await asked(door, verified(folder, client=True))
    assert (reply.status_code, reply.json()["reason"]) == (401, "CERTIFICATE_UNKNOWN")


async def test_new_certificates_count_for_new_connections(start_doors, folder, tmp_path):
    door = await start_doors(tls=tls_of(folder, client_ca=False), host="localhost")
    newer = make_certificates(tmp_path)
    for renewed in door.wire.secrets.renewed:
        renewed(tls_of(newer, client_ca=False))
    assert (await asked(door, verified(newer, client=False))).status_code == 200
    with pytest.raises(httpx.ConnectError):
        await asked(door, verified(folder, client=False))
