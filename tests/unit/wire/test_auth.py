"""Tokens and certificates to tenants."""

from __future__ import annotations

import hashlib

import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.wire.auth import Authenticator, certificate_names

STEP, HEALTH = "carousel.v1.InferenceService", "grpc.health.v1.Health"
TOKENS = {hashlib.sha256(who.encode()).digest(): who for who in ("alice", "bob")}
CERTIFICATES = {"alice.example": "alice", "spiffe://x/bob": "bob", "bob": "bob"}

BOTH = Authenticator(TOKENS, CERTIFICATES)
BY_TOKEN = Authenticator(TOKENS)
BY_CERTIFICATE = Authenticator({}, CERTIFICATES)

LET_IN = {
    "token alone": (BY_TOKEN, "Bearer alice", (), "alice"),
    "certificates that nothing maps": (BY_TOKEN, "Bearer alice", ("bob",), "alice"),
    "certificate alone": (BY_CERTIFICATE, None, ("alice.example",), "alice"),
    "two names of one tenant": (BY_CERTIFICATE, None, ("spiffe://x/bob", "bob"), "bob"),
    "a name that is not mapped beside one": (BY_CERTIFICATE, None, ("x", "bob"), "bob"),
    "a header where no token is known": (BY_CERTIFICATE, "Bearer bob", ("alice.example",), "alice"),
    "both, token": (BOTH, "Bearer bob", (), "bob"),
    "both, certificate": (BOTH, None, ("bob",), "bob"),
    "both agree": (BOTH, "Bearer bob", ("bob",), "bob"),
    "a token with a certificate of nobody": (BOTH, "Bearer bob", ("x",), "bob"),
    "nothing is asked for": (Authenticator({}), None, (), "default"),
}
REFUSED = {
    "no token": (BY_TOKEN, None, ("bob",), "TOKEN_INVALID"),
    "no certificate of ours": (BY_CERTIFICATE, None, ("x",), "CERTIFICATE_UNKNOWN"),
    "no name at all": (BY_CERTIFICATE, "Bearer alice", (), "CERTIFICATE_UNKNOWN"),
    "names of two tenants": (BY_CERTIFICATE, None, ("alice.example", "bob"), "IDENTITY_CONFLICT"),
    "they disagree": (BOTH, "Bearer alice", ("bob",), "IDENTITY_CONFLICT"),
    "a bad token is no less bad with a certificate": (BOTH, "Bearer x", ("bob",), "TOKEN_INVALID"),
    "neither": (BOTH, None, ("x",), "TOKEN_INVALID"),
}


@pytest.mark.parametrize("name", LET_IN)
def test_let_in(name: str) -> None:
    authenticator, header, names, tenant = LET_IN[name]
    assert authenticator.tenant(STEP, header, names) == tenant


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    authenticator, header, names, reason = REFUSED[name]
    with pytest.raises(CarouselError) as caught:
        authenticator.tenant(STEP, header, names)
    assert caught.value.reason == reason
    assert authenticator.tenant(HEALTH, header, names) == "default"


def test_new_tokens_count_at_once() -> None:
    authenticator = Authenticator(TOKENS)
    authenticator.replace_tokens({hashlib.sha256(b"new").digest(): "alice"})
    assert authenticator.tenant(STEP, "Bearer new") == "alice"
    with pytest.raises(CarouselError):
        authenticator.tenant(STEP, "Bearer alice")


def test_names_of_a_certificate() -> None:
    context = {
        "x509_common_name": [b"cn"],
        "x509_subject_alternative_name": [b"a.example", b"spiffe://x", b"\xff"],
        "transport_security_type": [b"ssl"],
    }
    assert certificate_names(context) == [
        "a.example",
        "spiffe://x",
        "\N{REPLACEMENT CHARACTER}",
        "cn",
    ]
    assert certificate_names({}) == []
