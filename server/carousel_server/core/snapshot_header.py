"""How a snapshot begins: a prefix, then a header of JSON that names model and weights first.

For code that needs no more of a snapshot than these. The bytes may come from outside. They are not checked
here, since the engine that takes the snapshot does that.
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
"""More than both names may take."""


def model_of(head: bytes) -> str:
    """Name of the model that a snapshot was taken of; "" where the bytes are no snapshot's first ones."""
    return _named(head)[0]


def fingerprint_of(head: bytes) -> str:
    """The weights that a snapshot belongs to; "" where the bytes are no snapshot's first ones."""
    return _named(head)[1]


def _named(head: bytes) -> tuple[str, str]:
    found = _NAMED.match(head, PREFIX.size, _NAMED_BYTES) if head.startswith(MAGIC) else None
    if found is None:
        return "", ""
    try:
        return str(json.loads(found[1])), str(json.loads(found[2]))
    except ValueError:
        return "", ""
