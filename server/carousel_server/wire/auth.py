"""Who is asking: bearer tokens to tenants."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from carousel_server.core.errors import CarouselError

DEFAULT_TENANT = "default"

_OPEN_SERVICES = frozenset({"grpc.health.v1.Health"})
"""Services that probes without credentials must reach."""


class Doorkeeper:
    """Turns an `authorization` header into a tenant.

    Only hashes of tokens are kept, and every known hash is compared in constant time, so that neither
    memory nor timing tells a token.
    """

    def __init__(self, tokens: Mapping[bytes, str]) -> None:
        """`tokens`: tenant by SHA-256 digest of its token; empty lets everybody in."""
        self._tokens = tuple(tokens.items())

    def tenant(self, service: str, authorization: Any) -> str:
        """The caller's tenant.

        Raises:
            CarouselError: TOKEN_INVALID if tokens are asked for and this is none of them.
        """
        if not self._tokens or service in _OPEN_SERVICES:
            return DEFAULT_TENANT
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
