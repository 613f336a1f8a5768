"""Ends a generation at a stop text, without ever showing a part of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from carousel_server.core.types import GeneratedToken


class StopTexts:
    """Holds back tokens whose text could be the beginning of a stop text."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        # Each with the text that stops are looked for in.
        self._held: list[tuple[GeneratedToken, str]] = []

    def push(self, token: GeneratedToken, special: str = "") -> tuple[list[GeneratedToken], bool]:
        """Takes the next token; returns those that may be shown now, and whether a stop was met.

        A token that a stop begins in the middle of is shown with its text cut before it. `special` is
        the name of a special token, which a stop can name though it is not shown.
        """
        if not self._stops:
            return [token], False
        self._held.append((token, token.text + special))
        text = "".join(sought for _, sought in self._held)
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            shown = self._cut(min(found))
            self._held = []
            return shown, True
        return self._release(len(text) - self._possible_beginning(text)), False

    def flush(self) -> list[GeneratedToken]:
        """What was held back, when the generation ends for another reason."""
        held, self._held = self._held, []
        return [token for token, _ in held]

    def _possible_beginning(self, text: str) -> int:
        """Length of the longest end of `text` that a stop text begins with."""
        most = max(len(stop) for stop in self._stops) - 1
        for size in range(min(most, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0

    def _release(self, safe: int) -> list[GeneratedToken]:
        """Tokens that lie wholly within the first `safe` characters."""
        shown: list[GeneratedToken] = []
        while self._held and len(self._held[0][1]) <= safe:
            token, sought = self._held.pop(0)
            safe -= len(sought)
            shown.append(token)
        return shown

    def _cut(self, end: int) -> list[GeneratedToken]:
        """The held tokens up to character `end` of their text."""
        shown = []
        for token, sought in self._held:
            if end <= 0:
                break
            shown.append(replace(token, text=token.text[:end]))
            end -= len(sought)
        return shown
