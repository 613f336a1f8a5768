"""The decoder of `save`: modules that continue the state of the encoder."""

from __future__ import annotations

from dataclasses import dataclass
from operator import index
from typing import Any, SupportsIndex

from torch import Tensor, nn

from .decoder_spec import DECODER, DecoderSpec
from .errors import PackageError
from .from_torch import Modules, Stacked, convert


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """A second stage. `save`'s own embedding and stack are then the encoder, which has no head.

    Attributes:
        embedding: makes the tokens that the decoder is fed.
        stack: as `save`'s, with the same cells, layers and sizes as the encoder's.
        head: as `save`'s. Its rows are logits over the decoder's tokens.
        start: the token that it is fed first.
        stop: the token that ends a text.
        most: tokens of a text at most.
        residual, norms: as `save`'s.
    """

    embedding: nn.Embedding
    stack: Stacked
    head: nn.Module | None
    start: SupportsIndex
    stop: SupportsIndex
    most: SupportsIndex
    residual: bool | list[bool] = False
    norms: tuple[nn.LayerNorm | nn.RMSNorm | None, ...] = ()

    @property
    def modules(self) -> Modules:
        """Its modules, as those of a model of its own."""
        parts = (self.stack, self.embedding, None, self.head, self.residual, self.norms)
        return Modules(*parts, custom=None, features=None).unwrapped()

    def converted(self) -> tuple[DecoderSpec, dict[str, Tensor]]:
        """The part of the manifest, and the tensors.

        Raises:
            PackageError: a manifest cannot describe a module, or a number is no integer.
        """
        parts, tensors = convert(self.modules, None)
        try:
            tokens: dict[str, Any] = {
                name: index(getattr(self, name)) for name in ("start", "stop", "most")
            }
        except TypeError as error:
            raise PackageError(f"start, stop and most of a decoder are integers: {error}") from None
        fields = {name: parts[name] for name in ("input", "stack", "head")}
        spec = DecoderSpec(**fields, **tokens)
        return spec, {f"{DECODER}.{name}": value for name, value in tensors.items()}
