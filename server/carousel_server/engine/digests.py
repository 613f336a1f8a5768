"""What tells one request for a generation from another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from carousel_server.core.types import GenerateSpec, Int32s

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_OF_THE_CALL = frozenset(("prompt", "opening_tokens", "first_seq", "deadline_s"))
"""Fields that do not tell one request from another. The prompt counts by the token ids that it gives."""

_PINNED = (
    ("max_tokens",),
    ("temperature", "top_k", "top_p", "repetition_penalty"),
    ("seed", "stop", "stop_tokens", "logprobs"),
)
"""How the first options are written. Snapshots hold digests, so this form stays as it is."""


def digest_of(spec: GenerateSpec, prompt: Int32s) -> str:
    """What tells one request from another: the prompt's token ids, and every option of the request.

    An option that is not pinned counts where it differs from its default. So the digests of older snapshots
    stay right when an option is added.
    """
    options = {name: value for name, value in _options(spec) if name not in _OF_THE_CALL}
    (most,), *pairs = (tuple(options.pop(name)[0] for name in names) for names in _PINNED)
    text = repr((most, *pairs))
    added = [(name, value) for name, (value, default) in options.items() if value != default]
    if added:
        text += repr(sorted(added))
    return blake2b(prompt.tobytes() + text.encode(), digest_size=16).hexdigest()


def _options(spec: DataclassInstance) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Name, value and default of each field, also of those inside a field that is a dataclass."""
    for field in fields(spec):
        value = getattr(spec, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            yield from _options(value)
        else:
            yield field.name, (value, field.default)
