"""TLS of the command's connection, from options, variables, and the settings of a server here."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from .exits import usage_error

if TYPE_CHECKING:
    import carousel

PREFIX = "CAROUSEL_"
TRUTHS = {"1": True, "true": True, "yes": True, "on": True}
TRUTHS |= {"": False, "0": False, "false": False, "no": False, "off": False}
WILDCARD_HOSTS = ("", "0.0.0.0", "::", "[::]")  # noqa: S104 - recognised, not listened on
LOOK_S = 5.0


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """The options --tls, --ca, --cert, --key and --server-name. Files are not read here."""

    tls: bool | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    server_name: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> TlsOptions:
        """CAROUSEL_TLS, CAROUSEL_CA, CAROUSEL_CERT, CAROUSEL_KEY and CAROUSEL_SERVER_NAME.

        Raises:
            CliError: CAROUSEL_TLS is neither true nor false.
        """
        files = {f.name: environment.get(PREFIX + f.name.upper()) or None for f in fields(cls)}
        said = (files.pop("tls") or "").lower()
        if said not in TRUTHS:
            raise usage_error(f"CAROUSEL_TLS is '{said}'", "set it to true or false")
        return cls(TRUTHS[said] or None, **files)

    def over(self, base: TlsOptions) -> TlsOptions:
        """These options, with those of `base` for the ones that are not set."""
        values: dict[str, Any] = {
            f.name: getattr(self, f.name) or getattr(base, f.name) for f in fields(self)
        }
        return TlsOptions(**values)

    @property
    def wanted(self) -> bool:
        """True if any of them needs TLS."""
        return self != TlsOptions()

    def for_sdk(self) -> carousel.TLS | None:
        """The argument `tls` of the SDK's client. None is a plain connection."""
        import carousel

        if not self.wanted:
            return None
        return carousel.TLS(self.ca, self.cert, self.key, self.server_name)


def own_address(environment: Mapping[str, str], default: str) -> str:
    """The address of the server whose variables are set here, as in its container."""
    host = environment.get("CAROUSEL_HOST", "")
    port = environment.get("CAROUSEL_PORT", "")
    default_host, _, default_port = default.rpartition(":")
    host = default_host if host in WILDCARD_HOSTS else host
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{host}:{port if port.isdecimal() else default_port}"  # Kubernetes sets tcp://…


def own_tls(environment: Mapping[str, str], address: str) -> TlsOptions:
    """The client's TLS options for that server: trust its certificate, under one of its names.

    If the server requires certificates, the client presents the server's own one.
    """
    certificate = environment.get("CAROUSEL_TLS_CERT")
    if not certificate:
        return TlsOptions()
    asked = bool(environment.get("CAROUSEL_TLS_CLIENT_CA"))
    return TlsOptions(
        True,
        ca=certificate,
        cert=certificate if asked else None,
        key=environment.get("CAROUSEL_TLS_KEY") if asked else None,
        server_name=_name_in_certificate(certificate, address),
    )


def _name_in_certificate(trusted: str, address: str) -> str | None:
    """A name in the server's certificate. None if the certificate is not trusted."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    with suppress(OSError, ValueError):
        context.load_verify_locations(trusted)
        with (
            socket.create_connection((host.strip("[]"), int(port)), LOOK_S) as plain,
            context.wrap_socket(plain) as encrypted,
        ):
            shown: Any = encrypted.getpeercert() or {}
        subject = [pair for part in shown.get("subject", ()) for pair in part]
        named = [*shown.get("subjectAltName", ()), *subject]
        kinds = ("DNS", "IP Address", "commonName")
        names = [name for kind in kinds for found, name in named if found == kind]
        return names[0].replace("*", "server", 1) if names else None
    return None
