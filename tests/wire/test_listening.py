"""Where and how a server listens: IPv6, TLS, and clients that must show a certificate."""

from __future__ import annotations

import shutil
import subprocess

import grpc
import pytest
from support.wire import Stubs

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_protos.v1 import carousel_pb2_grpc as pb_grpc
from carousel_server.wire import TlsFiles


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate of localhost and its key, as PEM bytes."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
            "subjectAltName=DNS:localhost", "-keyout", folder / "key.pem", "-out", folder / "cert.pem",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return (folder / "cert.pem").read_bytes(), (folder / "key.pem").read_bytes()


async def models_over_tls(port, root, key=None, chain=None):
    credentials = grpc.ssl_channel_credentials(root, key, chain)
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
        stub = pb_grpc.ModelServiceStub(channel)
        return (await stub.ListModels(pb.ListModelsRequest(), timeout=20)).models


async def test_tls(start_wire, certificate):
    cert, key = certificate
    wire = await start_wire(host="localhost", tls=TlsFiles(cert, key))
    assert len(await models_over_tls(wire.server.port, cert)) == 2
    with pytest.raises(grpc.aio.AioRpcError):  # in the clear
        await wire.stubs.models.ListModels(pb.ListModelsRequest(), timeout=20)


async def test_clients_without_a_certificate_of_the_authority_stay_outside(start_wire, certificate):
    cert, key = certificate
    wire = await start_wire(host="localhost", tls=TlsFiles(cert, key, client_ca=cert))
    assert len(await models_over_tls(wire.server.port, cert, key, cert)) == 2
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await models_over_tls(wire.server.port, cert)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("host", ["::1", "[::1]"])
async def test_ipv6(start_wire, host):
    wire = await start_wire(host=host)
    async with Stubs(f"[::1]:{wire.server.port}") as stubs:
        assert len((await stubs.models.ListModels(pb.ListModelsRequest())).models) == 2
