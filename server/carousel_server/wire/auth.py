"""Who calls: bearer tokens and client certificates to tenants."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Any

from carousel_server.core.errors import CarouselError

DEFAULT_TENANT = "default"

_OPEN_SERVICES = frozenset({"grpc.health.v1.Health"})
"""Services that probes without credentials must reach."""

_NAMES = ("x509_subject_alternative_name", "x509_common_name")
"""Where gRPC puts the names of a client's certificate."""


class Authenticator:
    """Turns an `authorization` header and the names in a client's certificate into a tenant.

    Only hashes of tokens are kept, and every known hash is compared in constant time, so that neither
    memory nor timing tells a token.
    """

    def __init__(
        self, tokens: Mapping[bytes, str], certificates: Mapping[str, str] | None = None
    ) -> None:
        """`tokens`: tenant by SHA-256 digest of its token. `certificates`: tenant by name in a client's
        certificate. If both are empty, everybody comes in.
        """
        self.certificates = dict(certificates or {})
        self.replace_tokens(tokens)

    def replace_tokens(self, tokens: Mapping[bytes, str]) -> None:
        """From now on these tokens count, and no others. Calls that run go on."""
        self._tokens = tuple(tokens.items())

    @property
    def tenants(self) -> frozenset[str]:
        """All tenants that can come in now."""
        named = frozenset({*(tenant for _, tenant in self._tokens), *self.certificates.values()})
        return named or frozenset({DEFAULT_TENANT})

    def tenant(self, service: str, authorization: Any, names: Iterable[str] = ()) -> str:
        """The caller's tenant. `names` are those of its certificate.

        Raises:
            CarouselError: TOKEN_INVALID, CERTIFICATE_UNKNOWN or IDENTITY_CONFLICT.
        """
        if service in _OPEN_SERVICES or not (self._tokens or self.certificates):
            return DEFAULT_TENANT
        certified = self._certified(names) if self.certificates else ""
        if authorization is None and certified:
            return certified
        if not self._tokens:
            if certified:
                return certified
            raise CarouselError("CERTIFICATE_UNKNOWN", "no tenant has the caller's certificate")
        named = self._named(authorization)
        if certified and certified != named:
            raise CarouselError(
                "IDENTITY_CONFLICT", "the token and the certificate are those of different tenants"
            )
        return named

    def _named(self, authorization: Any) -> str:
        """The tenant of a bearer token."""
        if not isinstance(authorization, str):
            raise CarouselError("TOKEN_INVALID", "the call has no authorization header")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise CarouselError("TOKEN_INVALID", "the authorization header is no bearer token")
        digest = hashlib.sha256(token.strip().encode()).digest()
        found = ""
        for known, tenant in self._tokens:
            if hmac.compare_digest(known, digest):
                found = tenant
        if not found:
            raise CarouselError("TOKEN_INVALID", "the bearer token is unknown here")
        return found

    def _certified(self, names: Iterable[str]) -> str:
        """The tenant of a certificate; empty if none has it."""
        tenants = {self.certificates[name] for name in names if name in self.certificates}
        if len(tenants) > 1:
            raise CarouselError(
                "IDENTITY_CONFLICT", "the names in the certificate are those of different tenants"
            )
        return next(iter(tenants), "")


def certificate_names(auth_context: Mapping[str, Iterable[bytes]]) -> list[str]:
    """The subject alternative names and the common name of a caller's certificate, as gRPC tells them."""
    return [value.decode(errors="replace") for key in _NAMES for value in auth_context.get(key, ())]
