"""Checks TLS files and tokens: whether they can be used, and until when. For `carousel doctor`."""

from __future__ import annotations

import ssl
import stat
import time
from _ssl import _test_decode_cert as decoded  # type: ignore[attr-defined]
from collections.abc import Iterator
from pathlib import Path

from carousel_server.wire import SecretError, TlsPaths, read_tls, read_tokens

from .config import Settings, is_loopback
from .findings import Finding, Level, problem, unless, well

_SOON_DAYS = 21
"""A certificate that expires sooner has not been renewed in time by the usual programs."""
_DAY_S = 86_400.0


def access(settings: Settings) -> Iterator[Finding]:
    """TLS first, then tokens."""
    yield from _tls(settings)
    yield _tokens(settings)


def _tls(settings: Settings) -> Iterator[Finding]:
    cert, key, client_ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if cert is None or key is None:
        why = "insecure=true" if settings.insecure else "only this machine can reach the server"
        yield well("TLS", f"off: {why}")
        return
    try:
        read_tls(TlsPaths(cert, key, client_ca))
    except SecretError as error:
        yield problem("TLS", error)
        return
    yield well("TLS", f"{key} fits {cert}")
    yield _expiry("certificate", cert)
    if client_ca is not None:
        yield _expiry("clients' authority", client_ca)
    yield _key_mode(key)


def _expiry(check: str, file: Path) -> Finding:
    """Until when the first certificate of a file is valid. Python has no other reader of certificates."""
    facts = decoded(str(file))
    days = (ssl.cert_time_to_seconds(str(facts["notAfter"])) - time.time()) / _DAY_S
    starts = (ssl.cert_time_to_seconds(str(facts["notBefore"])) - time.time()) / _DAY_S
    if days <= 0:
        found = f"{file} expired {-days:.0f} days ago"
        return Finding(check, Level.PROBLEM, found, "renew it; the server reads it again by itself")
    if starts > 0:
        found = f"{file} is valid only from {facts['notBefore']} on"
        return Finding(check, Level.PROBLEM, found, "set the clock, or wait")
    fix = "renew it; the server reads it again by itself" if days < _SOON_DAYS else ""
    return unless(fix, check, f"{file} is valid for {days:.0f} days, until {facts['notAfter']}")


def _key_mode(key: Path) -> Finding:
    mode = key.stat().st_mode
    fix = f"chmod 600 {key}" if mode & stat.S_IROTH else ""
    return unless(fix, "key", f"{key} has mode {stat.S_IMODE(mode):o}")


def _tokens(settings: Settings) -> Finding:
    if settings.tokens_file is not None:
        try:
            tenants = read_tokens(settings.tokens_file).values()
        except SecretError as error:
            return problem("tokens", error)
        return well("tokens", f"{len(set(tenants))} tenants in {settings.tokens_file}")
    if settings.tenants:
        return well("tokens", f"{len(settings.tenants)} tenants in the settings")
    if is_loopback(settings.host) or settings.tls_client_ca is not None:
        return well("tokens", "none are required")
    fix = "set tokens_file or tls_client_ca, unless the network is private"
    return unless(fix, "tokens", f"all who reach {settings.host} may use the server")
