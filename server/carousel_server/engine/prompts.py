"""Texts into the tokens of a model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from carousel_models import RecurrentModel
from carousel_models.tokenizer import Tokenizer
from carousel_server.core.errors import CarouselError
from carousel_server.core.types import ModelView

_LONG_TEXT_CHARACTERS = 4096

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
