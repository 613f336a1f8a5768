"""Stop texts: found across tokens, never shown in part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carousel_server.core.types import GeneratedToken
from carousel_server.engine.texts import StopTexts


def feed(stops: list[str], pieces: list[str]) -> tuple[str, bool, int]:
    """Text shown, whether it stopped, and after how many tokens."""
    watch, shown = StopTexts(stops), ""
    for number, piece in enumerate(pieces):
        tokens, stopped = watch.push(GeneratedToken(number, piece, number + 1))
        shown += "".join(token.text for token in tokens)
        if stopped:
            return shown, True, number + 1
    return shown + "".join(token.text for token in watch.flush()), False, len(pieces)


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        ([], ["a", "b"], ("ab", False, 2)),
        (["\n"], ["a", "\n", "b"], ("a", True, 2)),
        (["ab"], ["x", "a", "b", "y"], ("x", True, 3)),
        (["ab"], ["x", "a", "c", "y"], ("xacy", False, 4)),
        (["abc"], ["a", "b", "d"], ("abd", False, 3)),
        (["b"], ["abc"], ("a", True, 1)),
        (["aab"], ["a", "a", "a", "b"], ("a", True, 4)),
        (["xyz", "y"], ["x", "y"], ("x", True, 2)),
        (["end"], ["", "e", "", "nd"], ("", True, 4)),
    ],
)
def test_stops(stops: list[str], pieces: list[str], expected: tuple[str, bool, int]) -> None:
    assert feed(stops, pieces) == expected


def test_what_cannot_be_a_stop_is_shown_at_once() -> None:
    watch = StopTexts(["stop"])
    shown, _ = watch.push(GeneratedToken(1, "abc", 1))
    assert [token.text for token in shown] == ["abc"]
    assert watch.push(GeneratedToken(2, "st", 2)) == ([], False)
    shown, _ = watch.push(GeneratedToken(3, "ay", 3))
    assert [token.text for token in shown] == ["st", "ay"]


@given(
    st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=3),
    st.lists(st.text("abc", max_size=3), max_size=12),
)
def test_the_text_shown_is_the_text_before_the_first_stop(
    stops: list[str], pieces: list[str]
) -> None:
    shown, stopped, used = feed(stops, pieces)
    text = "".join(pieces[:used])
    places = [text.find(stop) for stop in stops if stop in text]
    assert stopped == bool(places)
    assert shown == (text[: min(places)] if places else text)
    assert not any(stop in "".join(pieces[: used - 1]) for stop in stops)


@pytest.mark.parametrize(
    ("stop", "shown"),
    [
        ("br本", "é"),  # as it is shown
        ("r</s>", "éb"),  # with the name
        ("</s>本", "ébr"),
        ("</s>", "ébr"),
        ("x", "ébr本ü"),
    ],
)
def test_a_special_token_within_a_stop_text_hides_nothing(stop: str, shown: str) -> None:
    watch, texts = StopTexts([stop, "never"]), list[str]()
    pieces = [("é", ""), ("b", ""), ("r", ""), ("", "</s>"), ("本", ""), ("ü", "")]
    for seq, (piece, special) in enumerate(pieces):
        tokens, stopped = watch.push(GeneratedToken(seq, piece, seq), special)
        texts += [token.text for token in tokens]
        if stopped:
            break
    texts += [token.text for token in watch.flush()]
    assert "".join(texts) == shown
