"""The text of a generation: what its caller sees of the drawn tokens, and which token ends it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from carousel_models.tokenizer import Tokenizer
from carousel_server.core.types import FinishReason, GeneratedToken, GenerateSpec
from carousel_server.rows.tokens import Details

from .stops import StopTexts


class GeneratedText:
    """Shows whole characters, and no part of a stop text.

    A character that is unfinished at the end belongs to the session: the text of its next generation
    begins with it. Where the session ends too, it is shown as U+FFFD.

    Attributes:
        rest: text that is left at the end, when no token was there to carry it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        eos: Collection[int],
        spec: GenerateSpec,
        before: Sequence[int],
        *,
        ends_session: bool,
    ) -> None:
        """`eos` are the tokens that end any text of the model; `before` are the tokens fed so far."""
        self.rest = ""
        self._tokenizer = tokenizer
        self._decoder = None if tokenizer is None else tokenizer.decoder(before)
        self._stops = StopTexts(spec.stop)
        self._stop_tokens = frozenset(spec.stop_tokens).union(eos)
        self._left = spec.max_tokens
        self._ends_session = ends_session

    def push(
        self, token_id: int, seq: int, details: Details
    ) -> tuple[list[GeneratedToken], FinishReason | None]:
        """Takes the next drawn token; returns what may be shown now, and why the text ends with it."""
        self._left -= 1
        if token_id in self._stop_tokens:
            return self._ended(self._stops.flush()), FinishReason.STOP
        text = special = ""
        if self._tokenizer is not None and self._decoder is not None:
            text, special = self._decoder.push(token_id), self._tokenizer.special_text(token_id)
        shown, stopped = self._stops.push(GeneratedToken(token_id, text, seq, *details), special)
        if stopped:
            return shown, FinishReason.STOP
        if self._left <= 0:
            return self._ended([*shown, *self._stops.flush()]), FinishReason.LENGTH
        return shown, None

    def _ended(self, shown: list[GeneratedToken]) -> list[GeneratedToken]:
        """The last tokens, with the text that the decoder still holds, if nothing can follow it."""
        if self._decoder is None or not self._ends_session:
            return shown
        rest = self._decoder.flush()
        if not shown or not rest:
            self.rest = rest
            return shown
        # The end may be told later, and would have to name that token again.
        return [*shown[:-1], replace(shown[-1], text=shown[-1].text + rest)]
