"""TLS of the connection, the causes of failed handshakes, and hosts of targets."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote

import grpc

from ._error_bases import CarouselError, ServerUnreachableError, TlsError
from ._errors import FieldInvalidError

Pem = bytes | str | Path

_PROBE_S = 1.0
"""Time-out of a handshake that checks whether a server uses TLS."""

_CLOSED = (
    "Socket closed",
    "reset by peer",
    "Broken pipe",
    "End of TCP stream",
    "CERTIFICATE_REQUIRED",
    "HANDSHAKE_FAILURE",
)
"""Texts of gRPC and OpenSSL for a server that accepts a connection and closes it at once."""

_HANDSHAKE_DONE = "the handshake is done"

_HANDSHAKES = {
    ("WRONG_VERSION_NUMBER",): (
        "the server does not use TLS",
        "Connect without TLS (command: no --tls, --ca, --cert, --key), or give the server a certificate.",
    ),
    ("Hostname Verification", "Hostname mismatch", "IP address mismatch"): (
        "the server's certificate is for another name",
        "Connect to a name in the certificate, or set one: TLS(server_name=…), or --server-name.",
    ),
    ("CERTIFICATE_VERIFY_FAILED",): (
        "the server's certificate is not trusted",
        "Set the authority that signed it: TLS(ca=FILE), or --ca FILE of the command.",
    ),
}

_NO_TLS = (
    "the server uses TLS, and this client does not",
    "Connect with TLS: Client(tls=True) or tls=TLS(ca=FILE); --tls or --ca FILE of the command.",
)

_ENDED = (
    "the server ended the TLS handshake; it may require a client's certificate",
    "Set one with its key: TLS(certificate=FILE, key=FILE), or --cert FILE --key FILE.",
)


@dataclass(frozen=True, slots=True)
class TLS:
    """Encrypts the connection. Each part is PEM bytes, or the path of a PEM file.

    Attributes:
        ca: certificates of the trusted authorities. None trusts the system's.
        certificate: the client's certificate, for servers that require one. It needs `key`.
        key: the certificate's key, not encrypted.
        server_name: the name to expect in the server's certificate, if it differs from the target's.
    """

    ca: Pem | None = None
    certificate: Pem | None = None
    key: Pem | None = field(default=None, repr=False)
    server_name: str | None = None

    def read(self) -> TLS:
        """Reads every file and checks every part. Returns TLS with the contents.

        Raises:
            OSError: a file cannot be read.
            FieldInvalidError: a part is not PEM, the key is not the certificate's, or one of them is None.
        """
        ca, key, certificate = self._parts()
        return replace(self, ca=ca, certificate=certificate, key=key)

    def credentials(self) -> grpc.ChannelCredentials:
        """The credentials for gRPC. Raises as `read`."""
        return grpc.ssl_channel_credentials(*self._parts())

    def _parts(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """CA, key and certificate, checked."""
        ca, key, certificate = map(_bytes_of, (self.ca, self.key, self.certificate))
        _check_certificates("ca", ca)
        _check_certificates("certificate", certificate)
        if certificate is not None and key is not None:
            _check_pair(certificate, key)
        elif certificate is not key:  # gRPC would end the process
            missing = "certificate" if certificate is None else "key"
            raise FieldInvalidError(f"TLS certificate and key belong together; {missing} is None")
        return ca, key, certificate


def disagreement(error: CarouselError, target: str, tls: TLS | None) -> TlsError | None:
    """The TlsError that explains the error of a call, or None. May take some seconds."""
    if not isinstance(error, ServerUnreachableError) or isinstance(error, TlsError):
        return None
    cause, fix = _cause_of(error.message, tls)
    if cause:
        return TlsError(f"{cause}: {error.message}", fix)
    # gRPC reports the failure of one address only. A name such as localhost has several.
    cause, fix = _cause_of(_handshake(target, tls), tls)
    return TlsError(cause, fix) if cause else None


_SCHEMES_OF_ADDRESSES = ("dns", "ipv4", "ipv6", "passthrough")
LOCAL_SCHEMES = ("unix", "unix-abstract", "vsock")


def host_and_port(target: str) -> tuple[str, int] | None:
    """The first host and port of a gRPC target. None if it has none, as unix:PATH."""
    scheme, colon, rest = target.partition(":")
    if colon and scheme in _SCHEMES_OF_ADDRESSES and not rest.isdecimal():
        target = rest.removeprefix("//").partition("/")[2] if rest.startswith("//") else rest
    first = unquote(target).partition(",")[0]
    host, _, port = first.rpartition(":")
    if not port.isdecimal() or "/" in host:
        return None
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_local(target: str) -> bool:
    """True if a target is on this machine: a loopback address, localhost or a local socket."""
    if target.partition(":")[0] in LOCAL_SCHEMES:
        return True
    found = host_and_port(target)
    if found is None:
        return False
    host = found[0].lower().removesuffix(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _cause_of(text: str, tls: TLS | None) -> tuple[str, str]:
    if tls is None:
        return _NO_TLS if _HANDSHAKE_DONE in text else ("", "")
    found = (told for marks, told in _HANDSHAKES.items() if any(mark in text for mark in marks))
    ended = tls.certificate is None and any(mark in text for mark in _CLOSED)
    return next(found, _ENDED if ended else ("", ""))


def _handshake(target: str, tls: TLS | None) -> str:
    """The result of a handshake with the target, as OpenSSL's text. It presents no certificate."""
    address = host_and_port(target)
    if address is None:
        return ""
    try:
        context = _context(tls)
        name = (tls and tls.server_name) or address[0]
        with (
            socket.create_connection(address, _PROBE_S) as plain,
            context.wrap_socket(plain, server_hostname=name) as encrypted,
        ):
            # A server of HTTP/2 sends first, unless it requires a client's certificate.
            return _HANDSHAKE_DONE if tls is None or encrypted.recv(1) else _CLOSED[0]
    except (OSError, ValueError) as error:
        return str(error)


def _context(tls: TLS | None) -> ssl.SSLContext:
    if tls is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        ca = None if tls.ca is None else _bytes_of(tls.ca)
        context = ssl.create_default_context(cadata=ca.decode("ascii") if ca else None)
    context.set_alpn_protocols(["h2"])
    return context


def _bytes_of(part: Pem | None) -> bytes | None:
    return part if part is None or isinstance(part, bytes) else Path(part).read_bytes()


def _check_certificates(name: str, pem: bytes | None) -> None:
    if pem is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise FieldInvalidError(f"TLS {name} holds no PEM certificate: {_reason(error)}") from None


def _check_pair(certificate: bytes, key: bytes) -> None:
    if b" PRIVATE KEY-----" not in key:
        raise FieldInvalidError("TLS key holds no PEM private key")
    if not hasattr(os, "memfd_create"):  # elsewhere the check would write the key to the disk
        return
    with os.fdopen(os.memfd_create("carousel-tls"), "wb", buffering=0) as memory:
        memory.write(certificate.rstrip() + b"\n" + key)
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_cert_chain(f"/proc/self/fd/{memory.fileno()}", password="")
        except (OSError, ValueError) as error:
            raise FieldInvalidError(
                f"TLS key cannot be used with the certificate: {_reason(error)}; it must be the "
                "certificate's own, and not encrypted"
            ) from None


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)
