"""Reads model and weights from the first bytes of a snapshot: a prefix, then a header of JSON.

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
_NAMED = re.compile(rb'\{"model":(' + _TEXT + rb'),"fingerprint":(' + _TEXT + rb")")
_NAMED_BYTES = 1 << 12
"""More bytes than both names can have."""


def model_of(head: bytes) -> str:
    """Name of a snapshot's model. "" where the bytes are not the beginning of a snapshot."""
    return _named(head)[0]


def fingerprint_of(head: bytes) -> str:
    """Fingerprint of a snapshot's weights. "" where the bytes are not the beginning of a snapshot."""
    return _named(head)[1]


def _named(head: bytes) -> tuple[str, str]:
    found = _NAMED.match(head, PREFIX.size, _NAMED_BYTES) if head.startswith(MAGIC) else None
    if found is None:
        return "", ""
    try:
        return str(json.loads(found[1])), str(json.loads(found[2]))
    except ValueError:
        return "", ""
