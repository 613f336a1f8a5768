"""A generation over several connections: each token once, compared, and no more tries than allowed."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import carousel
from carousel._core.generation_replay import GenerationReplay
from carousel._core.retry import RetryPolicy
from carousel.types import Token
from carousel_protos.v1 import carousel_pb2 as pb

LOST = carousel.ConnectionLostError("reset")


def replay(request: pb.GenerateRequest | None = None, **policy: float) -> GenerationReplay:
    return GenerationReplay(
        request or pb.GenerateRequest(model="m"),
        RetryPolicy(**policy),  # type: ignore[arg-type]
        first_answer_by_s=10.0,
        deadline_s=math.inf,
        rng=random.Random(0),
    )


def message(*tokens: tuple[int, str], first: int = 1) -> pb.GenerateResponse:
    return pb.GenerateResponse(
        tokens=[pb.Token(id=i, text=text, seq=first + k) for k, (i, text) in enumerate(tokens)]
    )


def pieces(tokens: list[pb.Token], sizes: list[int]) -> list[pb.GenerateResponse]:
    """The tokens in messages of these sizes; the rest in one."""
    cut, at = [], 0
    for size in [*sizes, len(tokens)]:
        cut.append(pb.GenerateResponse(tokens=tokens[at : at + size]))
        at += size
    return cut


@given(
    ids=st.lists(st.integers(0, 255), max_size=30),
    tries=st.lists(st.lists(st.integers(1, 7), max_size=5), min_size=1, max_size=5),
)
def test_every_token_is_told_once_wherever_the_calls_break(
    ids: list[int], tries: list[list[int]]
) -> None:
    tokens = [pb.Token(id=i, text=f"<{i}>", seq=k + 5) for k, i in enumerate(ids)]
    heard, told = replay(), list[Token]()
    for number, sizes in enumerate(tries):
        heard.call_begins()
        messages = pieces(tokens, sizes)
        last = number == len(tries) - 1
        for response in messages if last else messages[:-1]:
            told += heard.take(response)
        if not last:
            error = LOST if told else carousel.SlabFullError("full")
            assert heard.delay_s(error, 0.0) is not None
    assert told == [Token.of(token) for token in tokens]


def test_another_token_at_a_known_place_is_a_divergence() -> None:
    heard = replay()
    heard.call_begins()
    heard.take(message((1, "a"), (2, "b")))
    heard.call_begins()
    with pytest.raises(carousel.ReplayDivergedError, match="token 2 was 2 and came again as 3"):
        heard.take(message((1, "a"), (3, "c")))


def test_text_that_was_held_back_at_the_break_is_told_with_the_last_token() -> None:
    heard = replay()
    heard.call_begins()
    assert [t.text for t in heard.take(message((1, "a"), (200, "")))] == ["a", ""]
    heard.call_begins()
    rest = heard.take(message((1, "a"), (200, "\ufffd")))
    assert [(t.id, t.seq, t.text) for t in rest] == [(200, 2, "\ufffd")]


def test_the_seed_is_chosen_here_so_that_it_can_be_repeated() -> None:
    request = pb.GenerateRequest(model="m")
    replay(request)
    assert request.sampling.HasField("seed")
    chosen = pb.GenerateRequest(model="m", sampling=pb.Sampling(seed=7))
    replay(chosen)
    assert chosen.sampling.seed == 7


def test_a_generation_in_a_callers_session_is_not_begun_again() -> None:
    request = pb.GenerateRequest(session_id="s")
    heard = replay(request)
    assert not request.sampling.HasField("seed")
    heard.call_begins()
    assert heard.delay_s(carousel.SlabFullError("full"), 0.0) is not None  # nothing has moved yet
    heard.take(message((1, "a")))
    assert heard.delay_s(LOST, 0.0) is None


def test_one_that_names_its_step_waits_while_the_steps_before_it_are_sent_again() -> None:
    heard = replay(pb.GenerateRequest(session_id="s", first_seq=4), attempts=3)
    heard.call_begins()
    busy = carousel.SessionBusyError("steps are on their way")
    assert heard.delay_s(busy, 0.0) is not None
    assert heard.delay_s(busy, 0.0) is not None
    assert heard.delay_s(busy, 0.0) is None  # somebody else is using it, then


@pytest.mark.parametrize("policy", [{"attempts": 1}, {"reconnect_s": 0.0}])
def test_it_can_be_switched_off(policy: dict[str, float]) -> None:
    heard = replay(**policy)
    heard.call_begins()
    heard.take(message((1, "a")))
    assert heard.delay_s(LOST, 0.0) is None


def test_the_patience_starts_at_a_break_and_anew_once_the_place_is_reached() -> None:
    heard = replay(reconnect_s=5.0)
    heard.call_begins()
    heard.take(message((1, "a")))
    assert heard.delay_s(LOST, 100.0) is not None
    unreachable = carousel.ServerUnreachableError("refused")
    heard.call_begins()
    assert heard.delay_s(unreachable, 104.0) is not None
    assert heard.delay_s(unreachable, 104.999) is None
    heard.call_begins()
    heard.take(message((1, "a")))
    assert heard.delay_s(LOST, 105.0) is None  # no further than before: still the same break
    heard.take(message((2, "b"), first=2))
    assert heard.delay_s(LOST, 105.0) is not None


def test_what_no_try_can_mend_ends_it() -> None:
    heard = replay()
    heard.call_begins()
    heard.take(message((1, "a")))
    assert heard.delay_s(carousel.UnknownTokenError("who?"), 0.0) is None


@pytest.mark.parametrize("first_seq", [0, 4])
def test_a_session_that_is_busy_with_what_was_left_is_asked_again(first_seq: int) -> None:
    request = pb.GenerateRequest(session_id="s", first_seq=first_seq)
    replay = GenerationReplay(
        request, carousel.RetryPolicy(), first_answer_by_s=10.0, deadline_s=20.0
    )
    busy = carousel.SessionBusyError("busy")
    assert replay.delay_s(busy, 1.0) is not None
    if not first_seq:
        assert replay.delay_s(busy, 10.0) is None
