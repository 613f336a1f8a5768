"""Sequence ids as session ids."""

from __future__ import annotations

import hashlib
import re

from carousel_server.wire.fields import SEQUENCE_PREFIX

from .parameters import SequenceId

_MODEL_CHARACTERS = 64
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,48}")


def session_id(model: str, sequence_id: SequenceId) -> str:
    """The id of the session that is a sequence of a model.

    `triton:<model>:<number>` or `triton:<model>:s:<text>`, which anybody can name in `carousel sessions`;
    texts that are long or have other characters than a session id may have stand as `h:` and a hash.
    Nobody else opens, imports or forks a session of such an id; all else can be done with it.
    """
    head = f"{SEQUENCE_PREFIX}{model[:_MODEL_CHARACTERS]}:"
    if isinstance(sequence_id, int):
        return f"{head}{sequence_id}"
    if _PLAIN.fullmatch(sequence_id):
        return f"{head}s:{sequence_id}"
    digest = hashlib.sha256(sequence_id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{head}h:{digest[:48]}"
