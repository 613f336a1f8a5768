"""TLS of the HTTP door: the certificates of the gRPC port, at their newest."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path
from typing import Any

from carousel_server.wire import TlsFiles


class RenewedContext(ssl.SSLContext):
    """A context that asks the newest certificates for each connection."""

    newest: ssl.SSLContext

    @classmethod
    def of(cls, tls: TlsFiles) -> RenewedContext:
        """The context of some certificates."""
        self = cls(ssl.PROTOCOL_TLS_SERVER)
        self.renew(tls)
        return self

    def renew(self, tls: TlsFiles) -> None:
        """From now on, new connections get these certificates."""
        self.newest = context_of(tls)

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """See ssl.SSLContext."""
        return self.newest.wrap_bio(*args, **kwargs)


def context_of(tls: TlsFiles) -> ssl.SSLContext:
    """A server's context. With a client's authority, clients must present a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # The ssl module reads certificates from files only. These are the bytes that were checked.
    with tempfile.TemporaryDirectory(prefix="carousel-tls-") as folder:
        chain = Path(folder) / "chain.pem"
        chain.touch(mode=0o600)
        chain.write_bytes(tls.cert.rstrip() + b"\n" + tls.key)
        context.load_cert_chain(chain)
    if tls.client_ca is not None:
        context.load_verify_locations(cadata=tls.client_ca.decode("ascii", "replace"))
        context.verify_mode = ssl.CERT_REQUIRED
    return context
