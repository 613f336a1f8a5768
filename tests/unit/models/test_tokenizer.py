from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carousel_models import PackageError
from carousel_models.tokenizer import (
    BytesTokenizer,
    HuggingFaceTokenizer,
    Tokenizer,
    load_tokenizer,
)


@pytest.fixture(scope="module")
def byte_level() -> HuggingFaceTokenizer:
    """A byte-level BPE without merges: every byte is a token, as in the worst case of a real one."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    library = Library(models.BPE({char: number for number, char in enumerate(alphabet)}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return HuggingFaceTokenizer(library)


def words_tokenizer() -> HuggingFaceTokenizer:
    """Whole words with spaces restored by the decoder, so that a token's text depends on the one before."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers

    vocabulary = {"▁the": 0, "▁cat": 1, "s": 2, "[END]": 3}
    library = Library(models.WordLevel(vocabulary, unk_token="[END]"))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    library.add_special_tokens(["[END]"])
    return HuggingFaceTokenizer(library)


def pieces(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    decoder = tokenizer.decoder()
    return [*(decoder.push(token) for token in tokens), decoder.flush()]


@given(st.text())
def test_bytes_round_trip(text: str) -> None:
    tokenizer = BytesTokenizer()
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == list(text.encode())
    assert "".join(pieces(tokenizer, tokens.tolist())) == text


@given(st.binary())
def test_any_bytes_decode_as_python_does(data: bytes) -> None:
    assert "".join(pieces(BytesTokenizer(), list(data))) == data.decode(errors="replace")


def test_a_character_comes_when_its_last_byte_does() -> None:
    assert pieces(BytesTokenizer(), list("a€b".encode())) == ["a", "", "", "€", "b", ""]


def test_what_is_incomplete_is_flushed_as_replacement() -> None:
    decoder = BytesTokenizer().decoder()
    assert decoder.push(0xE2) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.push(ord("a")) == "a"


def test_a_token_that_is_no_byte() -> None:
    assert pieces(BytesTokenizer(), [97, 0xE2, 300, 98]) == ["a", "", "\ufffd\ufffd", "b", ""]


@given(text=st.text(max_size=40))
def test_byte_level_round_trip(byte_level: HuggingFaceTokenizer, text: str) -> None:
    tokens = byte_level.encode(text)
    assert tokens.dtype == np.int64
    assert len(tokens) == len(text.encode())
    assert "".join(pieces(byte_level, tokens.tolist())) == text


def test_byte_level_gives_text_as_soon_as_it_is_sure(byte_level: HuggingFaceTokenizer) -> None:
    tokens = byte_level.encode("né🙂!").tolist()
    assert pieces(byte_level, tokens) == ["n", "", "é", "", "", "", "🙂", "!", ""]


def test_byte_level_recovers_after_invalid_bytes(byte_level: HuggingFaceTokenizer) -> None:
    euro = byte_level.encode("€").tolist()
    lead = euro[0]
    text = "".join(pieces(byte_level, [lead] * 100 + euro + byte_level.encode("ok").tolist()))
    assert text.endswith("€ok")
    assert set(text[:-3]) == {"\ufffd"}
    assert len(text[:-3]) == 100


def test_byte_level_flushes_the_incomplete_rest(byte_level: HuggingFaceTokenizer) -> None:
    tokens = byte_level.encode("a€").tolist()[:-1]
    assert "".join(pieces(byte_level, tokens)) == "a\ufffd"


def test_spaces_between_words_are_kept() -> None:
    tokenizer = words_tokenizer()
    assert pieces(tokenizer, [0, 1, 2, 0, 3]) == ["the", " cat", "s", " the", "", ""]


def test_files_are_loaded_and_refused(tmp_path: Path, byte_level: HuggingFaceTokenizer) -> None:
    path = tmp_path / "tokenizer.json"
    byte_level._tokenizer.save(str(path))
    loaded = load_tokenizer("huggingface", path)
    assert loaded is not None
    assert (loaded.kind, loaded.vocabulary) == ("huggingface", 256)
    assert load_tokenizer("none", path) is None
    path.write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(PackageError, match=r"not a tokenizer file.*export it again"):
        load_tokenizer("huggingface", path)
