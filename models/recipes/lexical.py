"""The tagger's targets: every byte's lexical class, from Python's own `tokenize`."""

from __future__ import annotations

import builtins
import io
import keyword
import token
import tokenize
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

LABELS = (
    "whitespace",
    "newline",
    "comment",
    "string",
    "number",
    "keyword",
    "definition",
    "builtin",
    "name",
    "operator",
)
_CLASS = {label: number for number, label in enumerate(LABELS)}
_BUILTINS = frozenset(name for name in dir(builtins) if not name.startswith("_"))
_BY_TYPE = {
    token.COMMENT: "comment",
    token.STRING: "string",
    token.NUMBER: "number",
    token.OP: "operator",
    token.NEWLINE: "newline",
    token.NL: "newline",
}
# From Python 3.12 on, an f-string is several tokens. Here it is one string, as before.
_FSTRING_START = getattr(token, "FSTRING_START", None)
_FSTRING_END = getattr(token, "FSTRING_END", None)

Span = tuple[tuple[int, int], tuple[int, int], str]
"""Start and end as (row from 1, column in characters), and the class."""


class NotPythonError(Exception):
    """The source is not UTF-8, or this Python cannot tokenize it."""


def _class_of_name(text: str, before: str) -> str:
    if keyword.iskeyword(text):
        return "keyword"
    if before in ("def", "class"):
        return "definition"
    return "builtin" if text in _BUILTINS and before != "." else "name"


def _spans(source: str) -> Iterator[Span]:
    """The tokens that have bytes, in order. An f-string is one token."""
    before, depth, began = "", 0, (0, 0)
    for item in tokenize.generate_tokens(io.StringIO(source, newline="").readline):
        if item.type == _FSTRING_START:
            began = began if depth else item.start
            depth += 1
        elif item.type == _FSTRING_END:
            depth -= 1
            if not depth:
                yield began, item.end, "string"
        elif depth:
            continue
        elif item.type == token.NAME:
            yield item.start, item.end, _class_of_name(item.string, before)
        elif item.type in _BY_TYPE:
            yield item.start, item.end, _BY_TYPE[item.type]
        before = item.string


def classes(source: bytes) -> NDArray[np.uint8]:
    """The class of every byte, as indices into LABELS: uint8[len(source)].

    Indentation, spaces and line continuations are whitespace; all bytes of a multi-byte character have
    the character's class.

    Raises:
        NotPythonError: the source cannot be decoded or tokenized.
    """
    try:
        text = source.decode("utf-8")
        spans = list(_spans(text))
    except (UnicodeDecodeError, SyntaxError, tokenize.TokenError) as error:
        raise NotPythonError(f"cannot be tokenized: {error}") from error
    lines = io.StringIO(text, newline="").readlines()
    starts = np.concatenate(([0], np.cumsum([len(line.encode()) for line in lines])))

    def offset(row: int, column: int) -> int:
        if row > len(lines):
            return len(source)
        line = lines[row - 1]
        return int(starts[row - 1]) + len(line[:column].encode())

    result = np.full(len(source), _CLASS["whitespace"], np.uint8)
    for start, end, label in spans:
        result[offset(*start) : offset(*end)] = _CLASS[label]
    return result
