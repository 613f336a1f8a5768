"""The text of a generation: what its caller sees of the drawn tokens, and which token ends it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import accumulate

from carousel_models.tokenizer import Tokenizer
from carousel_server.core.types import FinishReason, GeneratedToken, GenerateSpec
from carousel_server.rows.tokens import Details


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


class StopTexts:
    """Holds back tokens whose text could be the beginning of a stop text."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        # Each with the name of a special token, which is not shown.
        self._held: list[tuple[GeneratedToken, str]] = []

    def push(self, token: GeneratedToken, special: str = "") -> tuple[list[GeneratedToken], bool]:
        """Takes the next token; returns those that may be shown now, and whether a stop was met.

        A token that a stop begins in the middle of is shown with its text cut before it. `special` is
        the name of a special token. Stops are looked for in the text as it is shown, and with such names.
        """
        if not self._stops:
            return [token], False
        self._held.append((token, special))
        shown = [token.text for token, _ in self._held]
        named = [token.text + special for token, special in self._held]
        views = [shown] if shown == named else [shown, named]
        found = [place for view in views if (place := self._stop_in(view)) is not None]
        if found:
            return self._cut(*min(found)), True
        return self._release(min(map(self._safe, views))), False

    def flush(self) -> list[GeneratedToken]:
        """What was held back, when the generation ends for another reason."""
        held, self._held = self._held, []
        return [token for token, _ in held]

    def _stop_in(self, pieces: Sequence[str]) -> tuple[int, int] | None:
        """The piece in which the first stop text begins, and at which of its characters."""
        text = "".join(pieces)
        left = min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=-1)
        for place, piece in enumerate(pieces if left >= 0 else ()):
            if left <= 0 or left < len(piece):
                return place, left
            left -= len(piece)
        return None

    def _safe(self, pieces: Sequence[str]) -> int:
        """How many pieces lie wholly before the longest end that a stop text begins with."""
        text = "".join(pieces)
        ends = accumulate(map(len, pieces))
        safe = len(text) - self._possible_beginning(text)
        return sum(end <= safe for end in ends)

    def _possible_beginning(self, text: str) -> int:
        """Length of the longest end of `text` that a stop text begins with."""
        most = max(len(stop) for stop in self._stops) - 1
        for size in range(min(most, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0

    def _release(self, count: int) -> list[GeneratedToken]:
        released, self._held = self._held[:count], self._held[count:]
        return [token for token, _ in released]

    def _cut(self, place: int, character: int) -> list[GeneratedToken]:
        """The held tokens up to a character of the text of one of them."""
        *shown, last = self._release(place + 1)
        self._held = []
        return [*shown, replace(last, text=last.text[:character])] if character else shown
