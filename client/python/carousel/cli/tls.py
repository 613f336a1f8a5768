"""How the command encrypts its connection: options, variables, and the server's own settings."""

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
    """The options --tls, --ca, --cert, --key and --server-name. Files are named, not read."""

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
        """These options, and those of `base` where none was given here."""
        values: dict[str, Any] = {
            f.name: getattr(self, f.name) or getattr(base, f.name) for f in fields(self)
        }
        return TlsOptions(**values)

    @property
    def wanted(self) -> bool:
        """Whether any of them asks for TLS."""
        return self != TlsOptions()

    def for_sdk(self) -> carousel.TLS | None:
        """As the SDK takes it; None for a plain connection."""
        import carousel

        if not self.wanted:
            return None
        return carousel.TLS(self.ca, self.cert, self.key, self.server_name)


def own_address(environment: Mapping[str, str], default: str) -> str:
    """Where the server listens whose variables are set here, as in its container."""
    host = environment.get("CAROUSEL_HOST", "")
    port = environment.get("CAROUSEL_PORT", "")
    default_host, _, default_port = default.rpartition(":")
    host = default_host if host in WILDCARD_HOSTS else host
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{host}:{port if port.isdecimal() else default_port}"  # Kubernetes sets tcp://…


def own_tls(environment: Mapping[str, str], address: str) -> TlsOptions:
    """What that server's TLS settings ask of a client: to trust its certificate, under a name that it has.

    To a server that asks for certificates, its own one is shown.
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
    """A name in the certificate that the server shows; None if it shows none that is trusted."""
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
