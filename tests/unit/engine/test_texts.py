"""The text of generations: it goes on from what the session has, over calls, restarts and copies."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import Export, Fork, Generate, Import, StepBlock
from carousel_server.core.types import (
    Durability,
    FinishReason,
    GeneratedToken,
    GenerateSpec,
    OpenSpec,
    SamplingSpec,
    SessionRef,
)
from carousel_server.rows.snapshot import encode

from .durable_rig import DurableRig
from .fakes import RecordingSink, RecordingTokens
from .speaking import SomeBytes, Speaking, words

THE_CAT_SAT = {0: 1, 1: 2, 2: 3, 3: 0}
E_ACUTE = b"\xc3\xa9ab"
GREEDY = SamplingSpec(temperature=0.0, seed=1)

Place = tuple[DurableRig, SessionRef]


def say(place: Place, prompt: Any = None, *, close_after: bool = False, **spec: Any) -> Any:
    """Runs one generation to its end."""
    rig, ref = place
    sink = RecordingTokens()
    settings = {"max_tokens": 1, "sampling": GREEDY} | spec
    prompt = np.asarray(prompt, np.int32) if isinstance(prompt, list) else prompt
    rig.engine.submit(Generate(ref, GenerateSpec(prompt, **settings), sink, close_after))
    rig.rest()
    assert sink.error is None, sink.error
    return sink


def text(sink: RecordingTokens) -> str:
    assert sink.end is not None
    return "".join(token.text for token in sink.got) + sink.end.text


def opened(model: Speaking, **limits: Any) -> Place:
    rig = DurableRig(model, **limits)
    return rig, rig.open_durable()


def of_its_own(model: Speaking) -> Place:
    """A session that ends with its call."""
    rig = DurableRig(model)
    return rig, rig.open(durability=Durability.NONE)


def applied(place: Place) -> int:
    rig, ref = place
    return int(rig.engine._rows.table.applied[ref.row])


def go_on(place: Place) -> Place:
    return place


def restart(place: Place) -> Place:
    again = place[0].restart()
    return again, again.resume()


def fork(place: Place) -> Place:
    rig, ref = place
    spec = OpenSpec("t", "copy", Durability.ASYNC)
    return rig, rig.until(rig.catalog.copy(rig.engine, Fork(ref, spec)))[0]


def export_and_import(place: Place) -> Place:
    rig, ref = place
    export = Export(ref)
    rig.engine.submit(export)
    data, _ = rig.until(export.reply)
    other = DurableRig(rig.model)
    spec = OpenSpec("t", "copy", Durability.ASYNC)
    return other, other.until(other.catalog.copy(other.engine, Import(data, spec)))[0]


def park(place: Place) -> Place:
    rig = place[0]
    rig.now += rig.engine._context.limits.park_after_s + 3
    rig.tick()
    rig.rest()
    assert rig.engine._rows.slots.used == 0
    return rig, rig.resume()


BETWEEN_CALLS = pytest.mark.parametrize(
    "between", [go_on, restart, fork, export_and_import, park], ids=lambda way: way.__name__
)
Between = Callable[[Place], Place]


# -- words


@BETWEEN_CALLS
@pytest.mark.parametrize("style", ["plain", "metaspace", "wordpiece"])
def test_a_word_is_apart_from_the_word_before_it(style: str, between: Between) -> None:
    place = opened(Speaking(THE_CAT_SAT, words(style=style)))
    assert text(say(place, "the cat")) == " sat"
    place = between(place)
    assert text(say(place, max_tokens=2)) == " down the"
    place = between(place) if between is not fork else place
    assert text(say(place, "the")) == " cat"


def test_a_first_word_follows_the_prompt_of_a_call_of_its_own() -> None:
    place = of_its_own(Speaking(THE_CAT_SAT, words()))
    assert text(say(place, "the cat", close_after=True, max_tokens=2)) == " sat down"


def test_what_the_client_fed_itself_is_text_before_it() -> None:
    rig, ref = place = opened(Speaking(THE_CAT_SAT, words()))
    steps = RecordingSink()
    rig.attach(ref, steps)
    tokens = np.asarray([0, 1], "<i4").tobytes()
    rig.engine.submit(StepBlock(steps, [1], [ref], [1], 2, tokens))
    rig.rest()
    assert text(say(place, [2])) == " down"


def test_a_word_after_a_special_token_is_apart_too() -> None:
    place = opened(Speaking({0: 5, 5: 1}, words()))
    assert text(say(place, "the", max_tokens=2)) == " cat"
    assert text(say(opened(Speaking({0: 5, 5: 1}, words())), [0, 5])) == " cat"


# -- bytes of characters


@BETWEEN_CALLS
def test_a_character_that_max_tokens_cuts_comes_whole_with_its_last_byte(between: Between) -> None:
    place = opened(Speaking({0: 1, 1: 0}, SomeBytes(E_ACUTE)))
    assert text(say(place, "é")) == ""
    place = between(place)
    assert text(say(place)) == "é"
    assert text(say(place)) == ""
    assert text(say(place)) == "é"


@BETWEEN_CALLS
def test_a_prompt_may_end_inside_a_character(between: Between) -> None:
    place = opened(Speaking({0: 1, 1: 2}, SomeBytes(E_ACUTE)))
    assert text(say(place, [2, 0], max_tokens=2)) == "éa"
    assert text(say(place, [0])) == "é"
    place = between(place)
    assert text(say(place)) == "a"


@BETWEEN_CALLS
def test_a_stop_token_may_come_inside_a_character(between: Between) -> None:
    """It is not shown, and neither is the half of a character that it ends."""
    place = opened(Speaking({0: 1, 1: 0}, SomeBytes(E_ACUTE)))
    sink = say(place, "é", stop_tokens=(1,), max_tokens=9)
    assert (text(sink), sink.end.reason) == ("", FinishReason.STOP)
    place = between(place)
    assert text(say(place, max_tokens=2)) == "é"


@BETWEEN_CALLS
def test_a_stop_text_is_met_by_a_character_of_two_calls(between: Between) -> None:
    place = opened(Speaking({0: 1, 1: 0}, SomeBytes(E_ACUTE)))
    assert text(say(place, "é", stop=("é",))) == ""
    place = between(place)
    sink = say(place, stop=("é",), max_tokens=9)
    assert (text(sink), sink.end.reason, sink.end.generated_tokens) == ("", FinishReason.STOP, 1)


def test_held_tokens_and_an_unfinished_character_end_together() -> None:
    place = opened(Speaking({2: 3, 3: 0, 0: 1}, SomeBytes(E_ACUTE)))
    assert text(say(place, "a", stop=("bé!",), max_tokens=2)) == "b"
    assert text(say(place, stop=("bé!",))) == "é"


def test_where_the_session_ends_an_unfinished_character_is_shown_once() -> None:
    place = of_its_own(Speaking({0: 1, 1: 0}, SomeBytes(E_ACUTE)))
    assert text(say(place, "é", close_after=True)) == "\ufffd"


def test_a_prompt_that_breaks_a_character_off_ends_it() -> None:
    place = opened(Speaking({0: 1, 1: 0, 2: 3}, SomeBytes(E_ACUTE)))
    assert text(say(place, "é")) == ""
    assert text(say(place, "a")) == "b"


def test_a_character_that_the_next_token_breaks_is_shown_as_broken() -> None:
    place = opened(Speaking({0: 2}, SomeBytes(E_ACUTE)))
    assert text(say(place, [0])) == "\ufffda"


# -- the same text for the same request


@pytest.mark.parametrize("tokens", [1, 3, 100])
@pytest.mark.parametrize("way", [go_on, restart, park], ids=lambda way: way.__name__)
def test_a_repeated_request_tells_the_same_texts(way: Between, tokens: int) -> None:
    for model, prompt in (
        (Speaking(THE_CAT_SAT, words()), "cat"),
        (Speaking({0: 1, 1: 0}, SomeBytes(E_ACUTE)), None),
    ):
        place = opened(model)
        say(place, "the" if prompt else "é")
        request = {"first_seq": applied(place) + 1, "max_tokens": tokens}
        first = say(place, prompt, **request)
        again = say(way(place), prompt, **request)
        assert [token.text for token in again.got] == [token.text for token in first.got]
        assert first.got[0].text == (" sat" if prompt else "é")


@pytest.mark.parametrize("stop", [(), ("down!",), ("x", "at d")])
def test_a_repeated_request_ends_at_the_same_stop(stop: tuple[str, ...]) -> None:
    place = opened(Speaking(THE_CAT_SAT, words()))
    request = {"first_seq": 1, "max_tokens": 5, "stop": stop}
    first = say(place, "the cat", **request)
    again = say(restart(place), "the cat", **request)
    assert ([*map(_shown, again.got)], again.end) == ([*map(_shown, first.got)], first.end)
    assert text(first) == (" s" if "x" in stop else " sat down the cat sat")


def _shown(token: GeneratedToken) -> tuple[int, str, int]:
    return token.id, token.text, token.seq


@pytest.mark.parametrize("durability", [Durability.ASYNC, Durability.SYNC])
def test_a_generation_that_was_cut_off_inside_a_character_goes_on(durability: Durability) -> None:
    rig = DurableRig(Speaking({0: 1, 1: 0}, SomeBytes(E_ACUTE)))
    ref = rig.open_durable(durability=durability)
    request = {"first_seq": 1, "max_tokens": 6, "sampling": GREEDY}
    early = RecordingTokens()
    rig.engine.submit(Generate(ref, GenerateSpec("é", **request), early))
    while len(early.got) < 3:
        rig.turn()
    assert early.end is None
    place = restart((rig, ref))
    whole = say(place, "é", **request)
    assert [token.text for token in whole.got] == ["", "é"] * 3
    assert [t.text for t in early.got] == [t.text for t in whole.got[: len(early.got)]]


# -- what opens and ends a text


@BETWEEN_CALLS
@pytest.mark.parametrize("template", ["[BOS] $A", "[BOS] $A </s>"])
def test_only_the_first_prompt_of_a_session_opens_a_text(template: str, between: Between) -> None:
    place = opened(Speaking(THE_CAT_SAT, words(template)))
    sink = say(place, "the cat")
    assert (sink.end.prompt_tokens, text(sink)) == (3, " sat")
    place = between(place)
    sink = say(place, "the cat")
    assert (sink.end.prompt_tokens, text(sink), applied(place)) == (3, " sat", 6)


def test_a_first_prompt_that_is_repeated_opens_its_text_again() -> None:
    place = opened(Speaking(THE_CAT_SAT, words("[BOS] $A </s>")))
    first = say(place, "the cat", first_seq=1)
    again = say(restart(place), "the cat", first_seq=1)
    assert (again.ids, again.end) == (first.ids, first.end)


def test_a_prompt_of_tokens_is_fed_as_it_is() -> None:
    place = opened(Speaking(THE_CAT_SAT, words("[BOS] $A")))
    assert say(place, [0, 1]).end.prompt_tokens == 2


@BETWEEN_CALLS
def test_eos_ends_a_text(between: Between) -> None:
    place = opened(Speaking({0: 1, 1: 5, 5: 2}, words(), eos=(5,)))
    sink = say(place, "the", max_tokens=9)
    assert (text(sink), sink.end.reason) == (" cat", FinishReason.STOP)
    assert text(say(between(place), max_tokens=1)) == " sat"


@pytest.mark.parametrize("stop", [("</s>",), ("x", "t</s>"), ("</s></s>",)])
def test_a_stop_text_may_name_a_special_token(stop: tuple[str, ...]) -> None:
    place = opened(Speaking({0: 1, 1: 5}, words()))
    sink = say(place, "the", stop=stop, max_tokens=9)
    assert sink.end.reason is FinishReason.STOP
    assert text(sink) == (" ca" if stop[-1] == "t</s>" else " cat")


def test_special_tokens_that_are_not_stops_are_held_back_but_shown() -> None:
    place = opened(Speaking({0: 5, 5: 2}, words()))
    sink = say(place, "the", stop=("</s>x",), max_tokens=3)
    assert ([token.id for token in sink.got], text(sink)) == ([5, 2, 2], " sat sat")
    assert [a.seq + 1 for a in sink.got[:-1]] == [b.seq for _, b in pairwise(sink.got)]


# -- snapshots from elsewhere


def test_a_crafted_context_is_refused() -> None:
    rig, ref = place = opened(Speaking(THE_CAT_SAT, words()))
    say(place, "the")
    taken = rig.engine._residency.take(ref)
    assert taken.generation is not None
    for context in ((8,), (0, 2**31 - 1)):
        crafted = replace(taken, generation=replace(taken.generation, context=context))
        spec = OpenSpec("t", "crafted", Durability.NONE)
        with pytest.raises(CarouselError, match="SNAPSHOT_INVALID"):
            rig.until(rig.catalog.copy(rig.engine, Import(encode(crafted), spec)))


def as_version_2(data: bytes) -> bytes:
    """A snapshot as version 2 wrote it: its generation has no context, no step a reset, no state a name."""
    (size,) = struct.unpack_from("<I", data, 6)
    header = json.loads(data[10 : 10 + size])
    del header["generation"]["context"], header["resets"], header["initial"]
    written = json.dumps(header).encode()
    body = data[:4] + struct.pack("<HI", 2, len(written)) + written + data[10 + size : -16]
    return body + blake2b(body, digest_size=16).digest()


def test_a_session_of_an_older_snapshot_goes_on_with_its_text() -> None:
    for model, prompt, texts in (
        (Speaking(THE_CAT_SAT, words()), "the cat", (" sat", " down")),
        (Speaking({0: 1, 1: 0}, SomeBytes(E_ACUTE)), "é", ("", "é")),
    ):
        rig, ref = place = opened(model)
        assert text(say(place, prompt, first_seq=1)) == texts[0]
        data = as_version_2(encode(rig.engine._residency.take(ref)))
        spec = OpenSpec("t", "copy", Durability.ASYNC)
        copied = rig.until(rig.catalog.copy(rig.engine, Import(data, spec)))[0]
        assert text(say((rig, copied), prompt, first_seq=1)) == texts[0]
        assert text(say((rig, copied))) == texts[1]
