"""How long the sentences of the documentation are, and how many are joined by a colon or semicolon."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

PROSE = ("README.md", "ARCHITECTURE.md", "docs/guides/*.md")
"""What users read first."""

MOST_WORDS = 14.0
"""A sentence, at the mean."""

MOST_JOINED = 0.25
"""Of all sentences."""

_LIST = re.compile(r"\s*(?:[-*+]|\d+\.)\s+")
_LINK = re.compile(r"!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])?")
_CODE = re.compile(r"`+[^`]*`+")
_TAG = re.compile(r"<[^>]+>")
_END = re.compile(r"(?<=[.!?…])[)\"”*_]*\s+(?=[\"“(*_`A-Z0-9])")
_WORD = re.compile(r"\w")
_JOIN = re.compile(r"[:;](?:\s|$)")


class Prose(NamedTuple):
    """What was counted."""

    sentences: int
    words: int
    joined: int
    """Sentences with a colon or a semicolon."""

    @property
    def words_a_sentence(self) -> float:
        """At the mean."""
        return self.words / self.sentences if self.sentences else 0.0

    @property
    def joined_share(self) -> float:
        """Of all sentences."""
        return self.joined / self.sentences if self.sentences else 0.0

    @property
    def is_plain(self) -> bool:
        """True if it keeps to the limits."""
        return self.words_a_sentence <= MOST_WORDS and self.joined_share <= MOST_JOINED


def of_files(files: Iterable[Path]) -> Prose:
    """Counts the sentences of some files in Markdown."""
    found = [each for file in files for each in sentences(file.read_text(encoding="utf-8"))]
    words = sum(sum(bool(_WORD.search(word)) for word in each.split()) for each in found)
    return Prose(len(found), words, sum(bool(_JOIN.search(each)) for each in found))


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text in Markdown, without code blocks, tables, headings, pictures and quotes' marks.

    A paragraph and an entry of a list each end a sentence. Code in a line counts as one word, and a link as
    its text.
    """
    for paragraph in _paragraphs(text):
        plain = _TAG.sub(" ", _LINK.sub(r"\1", _CODE.sub("code", paragraph)))
        yield from (each for each in _END.split(plain) if _WORD.search(each))


def _paragraphs(text: str) -> Iterator[str]:
    lines: list[str] = []
    fenced = False
    for line in [*text.splitlines(), ""]:
        stripped = line.lstrip("> ").strip()
        fence = stripped.startswith(("```", "~~~"))
        aside = not stripped or fence or fenced or stripped.startswith(("|", "#", "<", "!["))
        if (aside or _LIST.match(line)) and lines:
            yield " ".join(lines)
            lines = []
        if fence:
            fenced = not fenced
        elif not aside:
            lines.append(_LIST.sub("", stripped, count=1) if _LIST.match(line) else stripped)
