"""Text to tokens and back, a token at a time. No torch."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .errors import PackageError
from .lookup import entry

if TYPE_CHECKING:
    import tokenizers

Int64s = npt.NDArray[np.int64]

TokenizerKind = Literal["none", "bytes", "huggingface"]
"""The kinds of tokenizers in a manifest. `FORMS` makes each."""

CONTEXT_TOKENS = 16
"""How many earlier tokens a new decoder reads."""

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
_UNSTABLE_CHARS = 3  # an incomplete UTF-8 character has three bytes at most
_WINDOW_TOKENS = 64  # a window that never becomes clean is cut here


class TextDecoder(Protocol):
    """Decodes the tokens of one generation one by one. Not thread-safe."""

    def push(self, token: int) -> str:
        """The text that this token completes. It may be empty."""

    def flush(self) -> str:
        """The remaining text, with U+FFFD for an incomplete character. It resets the decoder."""


class Tokenizer(Protocol):
    """Text to token ids and back. Safe to share between threads."""

    @property
    def kind(self) -> str:
        """As in the manifest: "bytes" or "huggingface"."""

    @property
    def vocabulary(self) -> int:
        """Number of tokens it can produce."""

    def encode(self, text: str) -> Int64s:
        """Token ids of a whole text, int64[n], with the special tokens of the tokenizer's template."""

    def encode_prompt(self, text: str) -> tuple[Int64s, int]:
        """Token ids of a prompt, int64[n], and how many of them only open a text.

        The opening tokens, such as a BOS, come first. A continued text leaves them out. Tokens that the
        template adds after a text, such as an EOS, are not part of a prompt.
        """

    def decoder(self, before: Sequence[int] = ()) -> TextDecoder:
        """A new decoder of the text that follows the tokens `before`, of which it reads the last few.

        The bytes of a character that `before` leaves unfinished are part of the text that follows.
        """

    def special_text(self, token: int) -> str:
        """The name of a special token, such as "</s>", which has no text. "" for other tokens."""


class BytesTokenizer:
    """Token = byte of the UTF-8 text."""

    kind = "bytes"
    vocabulary = 256

    def encode(self, text: str) -> Int64s:
        """One token per byte."""
        return np.frombuffer(text.encode(), np.uint8).astype(np.int64)

    def encode_prompt(self, text: str) -> tuple[Int64s, int]:
        """One token per byte, and no opening tokens."""
        return self.encode(text), 0

    def decoder(self, before: Sequence[int] = ()) -> TextDecoder:
        """A new decoder. Ids from 256 on are no bytes, and are shown as U+FFFD."""
        return _primed(_BytesDecoder(), before)

    def special_text(self, token: int) -> str:  # noqa: ARG002 - as every tokenizer has it
        """No byte is special."""
        return ""


def _primed(decoder: TextDecoder, before: Sequence[int]) -> TextDecoder:
    for token in before[-CONTEXT_TOKENS:]:
        decoder.push(token)
    return decoder


class _BytesDecoder:
    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        if not 0 <= token < BytesTokenizer.vocabulary:
            return self.flush() + _INCOMPLETE
        return self._utf8.decode(bytes((token,)))

    def flush(self) -> str:
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


class HuggingFaceTokenizer:
    """A `tokenizer.json` of the Hugging Face `tokenizers` library."""

    kind = "huggingface"

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        """Padding and truncation of the file are switched off, so that a prompt is unchanged."""
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.vocabulary: int = tokenizer.get_vocab_size(with_added_tokens=True)
        added = tokenizer.get_added_tokens_decoder()
        self._special = {token: one.content for token, one in added.items() if one.special}

    @classmethod
    def load(cls, path: Path) -> HuggingFaceTokenizer:
        """Reads the file.

        Raises:
            PackageError: the library is missing or refuses the file.
        """
        try:
            import tokenizers
        except ImportError as error:
            raise PackageError(
                "the model names a Hugging Face tokenizer but `tokenizers` is not installed; "
                "install carousel-serving[server]"
            ) from error
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except Exception as error:  # the library raises bare Exception
            raise PackageError(
                f"{path.name} is not a tokenizer file: {error}; export it again"
            ) from error

    def encode(self, text: str) -> Int64s:
        """Token ids, with the special tokens that the file's post-processor adds."""
        return np.asarray(self._tokenizer.encode(text).ids, np.int64)

    def encode_prompt(self, text: str) -> tuple[Int64s, int]:
        """Token ids, and how many special tokens the file's post-processor puts before the text."""
        encoding = self._tokenizer.encode(text)
        # The post-processor's own tokens belong to no sequence.
        of_text = [i for i, number in enumerate(encoding.sequence_ids) if number is not None]
        if not of_text:
            return np.empty(0, np.int64), 0
        return np.asarray(encoding.ids[: of_text[-1] + 1], np.int64), of_text[0]

    def decoder(self, before: Sequence[int] = ()) -> TextDecoder:
        """A new decoder. Special tokens have no text."""
        return _primed(_WindowDecoder(self._tokenizer), before)

    def special_text(self, token: int) -> str:
        """The content of an added token that the file marks as special."""
        return self._special.get(token, "")


class _WindowDecoder:
    """Decodes a short window again for each token, because a token's text depends on its neighbours.

    The window holds the tokens of the last clean cut as context, and the ones after it. Text at the
    window's end that is U+FFFD may become a character when its missing bytes come, so it is held back.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._context = 0  # leading tokens of the window whose text was given out before it began
        self._given = 0  # characters of the window's text that were given out

    def push(self, token: int) -> str:
        self._window.append(token)
        text = self._text(self._window)
        clean = text.rstrip(_INCOMPLETE)
        if len(clean) == len(text):
            return self._cut(text)
        if len(self._window) >= _WINDOW_TOKENS:
            return self.flush()
        return self._give(text[: max(len(clean), len(text) - _UNSTABLE_CHARS)])

    def flush(self) -> str:
        rest = self._give(self._text(self._window))
        self._window, self._context, self._given = [], 0, 0
        return rest

    def _cut(self, text: str) -> str:
        """The new text. Its tokens become the context of the next ones."""
        new, tail = self._give(text), self._window[self._context :]
        tail_text = self._text(tail)
        if tail_text:
            self._window, self._context, self._given = tail, len(tail), len(tail_text)
        else:  # special tokens: the next word is still beside the word before them
            del self._window[self._context :]
            self._given = len(self._text(self._window))
        return new

    def _give(self, text: str) -> str:
        new = text[self._given :]
        self._given = max(self._given, len(text))
        return new

    def _text(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text


class TokenizerForm(NamedTuple):
    """How a tokenizer of one kind is made.

    Attributes:
        load: makes it from its file, or raises PackageError; the path means nothing where there is none.
        has_file: True if a package has a file of it.
        least_vocabulary: the least vocabulary of a model.
    """

    load: Callable[[Path], Tokenizer]
    has_file: bool
    least_vocabulary: int = 0


NO_TOKENIZER: Literal["none"] = "none"

FORMS: dict[TokenizerKind, TokenizerForm] = {
    "bytes": TokenizerForm(
        lambda _: BytesTokenizer(), has_file=False, least_vocabulary=BytesTokenizer.vocabulary
    ),
    "huggingface": TokenizerForm(HuggingFaceTokenizer.load, has_file=True),
}
"""One entry for each name in `TokenizerKind` but "none"."""


def form_of(kind: str) -> TokenizerForm:
    """How a tokenizer of a kind is made.

    Raises:
        PackageError: there is no such kind.
    """
    fix = "update carousel-serving, or save the model with one of these"
    return entry(FORMS, kind, "tokenizer", PackageError, fix)


def has_file(kind: str) -> bool:
    """True if a package with this kind of tokenizer has a file of it."""
    return kind != NO_TOKENIZER and form_of(kind).has_file


def load_tokenizer(kind: str, path: Path) -> Tokenizer | None:
    """The tokenizer of a manifest. `path` is the package's tokenizer.json.

    Raises:
        PackageError: there is no such kind, or the file cannot be used.
    """
    return None if kind == NO_TOKENIZER else form_of(kind).load(path)


def kind_of(tokenizer: str | Path) -> TokenizerKind:
    """The kind of what `save` was given: the name of a kind that needs no file, or the path of a file.

    Raises:
        PackageError: it is neither, or no kind can read the file.
    """
    without_file = [name for name, form in FORMS.items() if not form.has_file]
    for name in (NO_TOKENIZER, *without_file):
        if tokenizer == name:
            return name
    path, refusals = Path(tokenizer), []
    if not path.is_file():
        raise PackageError(
            f"there is no tokenizer {str(tokenizer)!r} and no such file; give {NO_TOKENIZER}, "
            f"{', '.join(without_file)} or the path of a tokenizer.json"
        )
    for name, form in FORMS.items():
        if form.has_file:
            try:
                form.load(path)
            except PackageError as refusal:
                refusals.append(str(refusal))
            else:
                return name
    raise PackageError("; ".join(refusals))
