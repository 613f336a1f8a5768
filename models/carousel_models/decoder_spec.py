"""The manifest of a decoder: a second stage with tokens of its own. No torch."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from .heads import Head, NoHead
from .inputs import MAX_VOCABULARY, TokensInput
from .layer_spec import MAX_LAYERS, LayerSpec
from .parts import MAX_SIZE, Part

DECODER = "decoder"
"""Names of a decoder's tensors begin with it and a dot."""

Token = Annotated[int, Field(ge=0, lt=MAX_VOCABULARY)]


class DecoderSpec(Part):
    """The second stage of a model. The usual fields of the manifest are then the first one, the encoder.

    The encoder reads a prompt. Then the decoder continues with the same state. Its first input is `start`.
    Each later one is the token before. Its rows are logits over its own tokens, 0 … vocabulary−1.

    Attributes:
        input: its tokens.
        stack: layers with the encoder's states, in names, shapes and types.
        head: gives one number per token. None if the stack's rows are that.
        start: its first input.
        stop: the token that ends a text.
        most: tokens of a text at most.
    """

    input: TokensInput
    stack: Annotated[tuple[LayerSpec, ...], Field(min_length=1, max_length=MAX_LAYERS)]
    head: Head = NoHead()
    start: Token
    stop: Token
    most: Annotated[int, Field(ge=1, le=MAX_SIZE)]

    @model_validator(mode="after")
    def _own_tokens(self) -> Self:
        for name, token in (("start", self.start), ("stop", self.stop)):
            if token >= self.input.vocabulary:
                raise ValueError(
                    f"{name} is {token}, but the decoder's tokens are 0 … {self.input.vocabulary - 1}"
                )
        return self
