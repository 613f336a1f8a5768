"""Tokens that wait for a client: in order, and not without end."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.types import FinishReason, GeneratedToken, GenerationEnd
from carousel_server.wire import generate
from carousel_server.wire.generate import TokenQueue

END = GenerationEnd(FinishReason.LENGTH, 1, 3, 4)


def token(seq, alternatives=0):
    return GeneratedToken(id=1, text="a", seq=seq, alternatives=((0, -1.0),) * alternatives)


@pytest.fixture
def queue(monkeypatch):
    monkeypatch.setattr(generate, "_MOST_UNREAD", 100)

    def make(give_up=None):
        return TokenQueue(asyncio.get_running_loop(), give_up or Mock())

    return make


async def test_all_that_was_made_is_given_before_the_end(queue):
    tokens = queue()
    tokens.tokens([token(1), token(2)])
    tokens.finished(END)
    message, last = await tokens.next_message()
    assert ([t.seq for t in message.tokens], last) == ([1, 2], True)
    assert message.finish_reason == FinishReason.LENGTH


@pytest.mark.parametrize(("count", "alternatives"), [(101, 0), (4, 32)])
async def test_a_client_that_does_not_read_loses_the_generation(queue, count, alternatives):
    give_up = Mock()
    tokens = queue(give_up)
    for seq in range(count):
        tokens.tokens([token(seq, alternatives)])
    tokens.finished(END)
    await asyncio.sleep(0)
    with pytest.raises(CarouselError, match="unread") as caught:
        await tokens.next_message()
    assert (caught.value.reason, caught.value.retry_after_s) == ("QUEUE_FULL", 1.0)
    give_up.assert_called_once_with()
    assert not tokens._tokens


async def test_reading_makes_room(queue):
    tokens = queue()
    for seq in range(300):
        tokens.tokens([token(seq)])
        message, _ = await tokens.next_message()
        assert [t.seq for t in message.tokens] == [seq]
