"""A model that says one token after another, and small tokenizers for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

from carousel_models.kernels.reference import gather
from carousel_models.tokenizer import BytesTokenizer, HuggingFaceTokenizer

from .fakes import VOCABULARY, RunningSum

WORDS = {"the": 0, "cat": 1, "sat": 2, "down": 3, "[BOS]": 4, "</s>": 5, "[UNK]": 6}


class Speaking(RunningSum):
    """After token t it says `says[t]`; a token that it has no answer to is followed by itself."""

    def __init__(self, says: dict[int, int], tokenizer: object, eos: tuple[int, ...] = ()) -> None:
        super().__init__(tokens=True, tokenizer=tokenizer)
        self.manifest = self.manifest.model_copy(update={"eos": eos})
        self._next = torch.tensor([says.get(token, token) for token in range(VOCABULARY)])

    def step(
        self, x: Tensor, state: tuple[Tensor, ...], slots: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        said = torch.nn.functional.one_hot(self._next[x], VOCABULARY).float()
        return said, (gather(state, slots)[0] + 1,)


class SomeBytes(BytesTokenizer):
    """Token i is byte `values[i]`: the bytes tokenizer, small enough for the fake's vocabulary."""

    def __init__(self, values: bytes) -> None:
        self.values = values

    def encode(self, text: str) -> np.ndarray:
        return np.asarray([self.values.index(byte) for byte in text.encode()], np.int64)

    def decoder(self, before: Sequence[int] = ()) -> object:
        values, inner = self.values, super().decoder([self.values[token] for token in before])

        class Mapped:
            def push(self, token: int) -> str:
                return inner.push(values[token])

            def flush(self) -> str:
                return inner.flush()

        return Mapped()


def words(template: str | None = None, *, style: str = "plain") -> HuggingFaceTokenizer:
    """Whole words. `style` says how the decoder knows where a space belongs."""
    mark = {"plain": "", "metaspace": "▁", "wordpiece": ""}[style]
    vocabulary = {
        word if word.startswith(("[", "<")) else mark + word: number
        for word, number in WORDS.items()
    }
    library = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    if style == "metaspace":
        library.pre_tokenizer = pre_tokenizers.Metaspace()
        library.decoder = decoders.Metaspace()
    elif style == "wordpiece":
        library.decoder = decoders.WordPiece()
    library.add_special_tokens(["[BOS]", "</s>"])
    if template is not None:
        library.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("[BOS]", 4), ("</s>", 5)]
        )
    return HuggingFaceTokenizer(library)
