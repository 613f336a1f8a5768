"""Ends a generation at a stop text, without ever showing a part of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from carousel_server.core.types import GeneratedToken


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
