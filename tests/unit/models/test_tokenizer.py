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


def test_a_word_after_special_tokens_is_apart_from_the_word_before_them() -> None:
    assert pieces(words_tokenizer(), [0, 3, 3, 1]) == ["the", "", "", " cat", ""]
    assert pieces(words_tokenizer(), [0, *[3] * 200, 1])[-2:] == [" cat", ""]


def test_a_space_on_its_own_is_kept() -> None:
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models

    library = Library(models.WordLevel({"▁": 0, "a": 1, "b": 2}, unk_token="a"))
    library.decoder = decoders.Metaspace()
    assert pieces(HuggingFaceTokenizer(library), [1, 0, 2, 0, 0, 1]) == [
        "a", " ", "b", " ", " ", "a", "",
    ]  # fmt: skip


@pytest.mark.parametrize("tokens", [[0, 1, 2], [0, 1, 2] * 20, [0, 3, 1, 2], [3, 0]])
def test_a_decoder_goes_on_from_any_place(tokens: list[int]) -> None:
    tokenizer = words_tokenizer()
    whole = pieces(tokenizer, [*tokens, 1, 2])
    for cut in range(len(tokens)):
        later = tokenizer.decoder(tokens[:cut])
        texts = [later.push(token) for token in [*tokens[cut:], 1, 2]]
        assert texts == whole[cut:-1]


@given(text=st.text(max_size=30), data=st.data())
def test_byte_level_goes_on_from_any_place(
    byte_level: HuggingFaceTokenizer, text: str, data: st.DataObject
) -> None:
    for tokenizer in (BytesTokenizer(), byte_level):
        tokens = tokenizer.encode(text).tolist()
        cut = data.draw(st.integers(0, len(tokens)))
        first, later = tokenizer.decoder(), tokenizer.decoder(tokens[:cut])
        shown = "".join(first.push(token) for token in tokens[:cut])
        shown += "".join(later.push(token) for token in tokens[cut:])
        assert shown + later.flush() == text


def template(single: str) -> HuggingFaceTokenizer:
    from tokenizers import processors

    tokenizer = words_tokenizer()
    tokenizer._tokenizer.add_special_tokens(["[END]", "[BOS]"])
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("[BOS]", 4), ("[END]", 3)]
    )
    return HuggingFaceTokenizer(tokenizer._tokenizer)


@pytest.mark.parametrize(
    ("single", "whole", "prompt", "opening"),
    [
        ("$A", [0, 1], [0, 1], 0),
        ("[BOS] $A", [4, 0, 1], [4, 0, 1], 1),
        ("$A [END]", [0, 1, 3], [0, 1], 0),
        ("[BOS] [BOS] $A [END]", [4, 4, 0, 1, 3], [4, 4, 0, 1], 2),
    ],
)
def test_a_prompt_has_the_tokens_that_open_a_text_and_not_those_that_end_it(
    single: str, whole: list[int], prompt: list[int], opening: int
) -> None:
    tokenizer = template(single)
    assert tokenizer.encode("the cat").tolist() == whole
    ids, leading = tokenizer.encode_prompt("the cat")
    assert (ids.tolist(), ids.dtype, leading) == (prompt, np.int64, opening)
    assert tokenizer.encode_prompt("")[0].tolist() == []


def test_special_tokens_of_a_text_are_part_of_its_prompt() -> None:
    ids, opening = template("[BOS] $A [END]").encode_prompt("[END]the[BOS]")
    assert (ids.tolist(), opening) == ([4, 3, 0, 4], 1)


def test_bytes_have_nothing_that_opens_a_text() -> None:
    ids, opening = BytesTokenizer().encode_prompt("é")
    assert (ids.tolist(), opening) == ([0xC3, 0xA9], 0)
    assert BytesTokenizer().special_text(0) == ""


def test_special_tokens_have_a_name() -> None:
    tokenizer = words_tokenizer()
    assert [tokenizer.special_text(token) for token in range(5)] == ["", "", "", "[END]", ""]


def test_padding_and_truncation_of_the_file_are_off(tmp_path: Path) -> None:
    library = words_tokenizer()._tokenizer
    library.enable_padding(length=9, pad_id=3, pad_token="[END]")
    library.enable_truncation(3)
    library.save(str(tmp_path / "tokenizer.json"))
    written = json.loads((tmp_path / "tokenizer.json").read_text())
    assert written["padding"]
    assert written["truncation"]
    tokenizer = load_tokenizer("huggingface", tmp_path / "tokenizer.json")
    assert tokenizer is not None
    for text, tokens in (("the", [0]), ("the cat the cat", [0, 1, 0, 1])):
        assert tokenizer.encode(text).tolist() == tokens
        assert tokenizer.encode_prompt(text)[0].tolist() == tokens


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
