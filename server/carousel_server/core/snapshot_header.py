"""Reads model, weights and initial state from the first bytes of a snapshot: a prefix, then a header of JSON.

The bytes may come from a client. They are not checked here: the engine checks a snapshot that it restores.
"""

from __future__ import annotations

import json
import re
import struct

MAGIC = b"CRSL"
PREFIX = struct.Struct("<4sHI")
"""The magic bytes, the version and the length of the header."""

_TEXT = rb'"(?:[^"\\]|\\.)*"'
_NAMED = re.compile(
    rb'\{"model":(' + _TEXT + rb'),"fingerprint":(' + _TEXT + rb')(?:,"initial":(' + _TEXT + rb"))?"
)
_NAMED_BYTES = 1 << 12
"""More bytes than the names can have."""


def model_of(head: bytes) -> str:
    """Name of a snapshot's model. "" where the bytes are not the beginning of a snapshot."""
    return _named(head)[0]


def fingerprint_of(head: bytes) -> str:
    """Fingerprint of a snapshot's weights. "" where the bytes are not the beginning of a snapshot."""
    return _named(head)[1]


def initial_of(head: bytes) -> str:
    """Name of the initial state that a session began with. "" for the default, and as the others."""
    return _named(head)[2]


def _named(head: bytes) -> tuple[str, str, str]:
    found = _NAMED.match(head, PREFIX.size, _NAMED_BYTES) if head.startswith(MAGIC) else None
    if found is None:
        return "", "", ""
    try:
        model, fingerprint, initial = (json.loads(text or b'""') for text in found.groups())
    except ValueError:
        return "", "", ""
    return str(model), str(fingerprint), str(initial)
