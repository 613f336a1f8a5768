"""What a request for a generation feeds, and what tells it from another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from carousel_models import RecurrentModel
from carousel_models.tokenizer import Tokenizer
from carousel_server.core.errors import CarouselError
from carousel_server.core.types import GenerateSpec, Int32s, ModelView

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_LONG_TEXT_CHARACTERS = 4096

_OF_THE_CALL = frozenset(("prompt", "opening_tokens", "first_seq", "deadline_s"))
"""Fields that do not tell one request from another. The prompt counts by the token ids that it gives."""

_PINNED = (
    ("max_tokens",),
    ("temperature", "top_k", "top_p", "repetition_penalty"),
    ("seed", "stop", "stop_tokens", "logprobs"),
)
"""How the first options are written. Snapshots hold digests, so this form stays as it is."""

T = TypeVar("T")


def tokenizer_of(model: RecurrentModel, view: ModelView) -> Tokenizer:
    """The tokenizer of a model that takes text.

    Raises:
        CarouselError: TEXT_UNAVAILABLE.
    """
    if model.tokenizer is None:
        raise CarouselError(
            "TEXT_UNAVAILABLE", f"model {view.name!r} names no tokenizer", field="text"
        )
    return model.tokenizer


async def encoded(encode: Callable[[str], T], text: str) -> T:
    """What `encode` makes of a text; a long one is encoded beside the event loop."""
    if len(text) > _LONG_TEXT_CHARACTERS:
        return await asyncio.to_thread(encode, text)
    return encode(text)


def prompt_ids(spec: GenerateSpec, base: int) -> Int32s:
    """What a prompt feeds after step `base`: its opening tokens only where the session begins, or again."""
    prompt = spec.prompt
    if prompt is None:
        return np.empty(0, np.int32)
    assert not isinstance(prompt, str), "texts are encoded before they get into the inbox"
    return prompt[spec.opening_tokens if base and not spec.reset else 0 :]


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
