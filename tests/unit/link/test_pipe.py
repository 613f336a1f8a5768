"""Messages between the processes of one server: whole, in order, and never waited for."""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
import threading
from collections.abc import AsyncIterator

import pytest
from support.wire import settled

from carousel_server.core.errors import CarouselError
from carousel_server.link import pipe as pipes
from carousel_server.link.pipe import Message, connect


class End:
    """One end, and what it has heard."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.lost = False

    async def over(self, end: socket.socket) -> End:
        self.pipe = await connect(end, self.heard.append, self._lost)
        return self

    def _lost(self) -> None:
        self.lost = True


@pytest.fixture
async def ends() -> AsyncIterator[tuple[End, End]]:
    one, two = socket.socketpair()
    pair = await End().over(one), await End().over(two)
    yield pair
    for end in pair:
        end.pipe.close()


async def test_messages_come_whole_and_in_order(ends):
    one, two = ends
    said = [("n", number, b"x" * (number * 997)) for number in range(500)]
    for message in said:
        one.pipe.post(*message)
    await settled(lambda: len(two.heard) == len(said))
    assert two.heard == said


async def test_what_a_turn_says_is_one_frame_whatever_the_pieces_it_comes_in():
    heard: list[Message] = []
    pipe = pipes.Pipe(heard.append, lambda: None)
    frames = b""
    for messages in ([("a", 1), ("b", 2)], [("c", 3)]):
        data = pickle.dumps(messages)
        frames += struct.pack("<I", len(data)) + data
    for at in range(len(frames)):
        pipe.data_received(frames[at : at + 1])
    assert heard == [("a", 1), ("b", 2), ("c", 3)]


async def test_threads_lose_nothing(ends):
    one, two = ends

    def say(who: int) -> None:
        for number in range(300):
            one.pipe.post(who, number)

    threads = [threading.Thread(target=say, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    await settled(lambda: len(two.heard) == 1200)
    for thread in threads:
        thread.join()
    for who in range(4):
        assert [number for by, number in two.heard if by == who] == list(range(300))


async def test_the_end_of_one_side_is_told_to_the_other_and_later_words_are_dropped(ends):
    one, two = ends
    one.pipe.close()
    await settled(lambda: two.lost and one.lost)
    one.pipe.post("late")
    two.pipe.post("late")
    await asyncio.sleep(0.01)
    assert one.heard == two.heard == []


async def test_a_message_that_cannot_be_taken_is_logged_and_the_next_is_taken(caplog):
    heard: list[Message] = []

    def take(message: Message) -> None:
        if message[0] == "bad":
            raise KeyError("bad")
        heard.append(message)

    one, two = socket.socketpair()
    ours = await connect(one, take, lambda: None)
    theirs = (await End().over(two)).pipe
    theirs.post("bad")
    theirs.post("good")
    await settled(lambda: heard == [("good",)])
    assert "a defect in the link: bad" in caplog.text
    ours.close()
    theirs.close()


async def test_an_end_that_takes_nothing_is_crowded_and_then_given_up(monkeypatch, caplog):
    monkeypatch.setattr(pipes, "_CROWDED_BYTES", 1 << 20)
    monkeypatch.setattr(pipes, "_PATIENCE_S", 0.05)
    one, two = socket.socketpair()  # nobody reads `two`
    end = await End().over(one)
    while not end.pipe.crowded:
        end.pipe.post("much", b"x" * 100_000)
        await asyncio.sleep(0)
    await settled(lambda: end.lost)
    assert "takes nothing any more" in caplog.text
    two.close()


async def test_a_slow_end_is_waited_for(monkeypatch):
    """Whatever is due to it: what counts is that it goes on taking."""
    monkeypatch.setattr(pipes, "_CROWDED_BYTES", 1 << 18)
    monkeypatch.setattr(pipes, "_PATIENCE_S", 0.05)
    one, two = socket.socketpair()
    two.setblocking(False)
    end = await End().over(one)
    end.pipe.post("much", b"x" * (8 << 20))
    taken = 0
    while taken < 8 << 20:
        await asyncio.sleep(0.01)
        taken += len(two.recv(1 << 18))
        assert not end.lost
    end.pipe.close()
    two.close()


def test_nothing_is_raised_when_the_loop_has_ended():
    async def make() -> pipes.Pipe:
        return pipes.Pipe(lambda _: None, lambda: None)

    with asyncio.Runner() as runner:
        pipe = runner.run(make())
    pipe.post("nobody hears it")


def test_an_error_crosses_whole():
    error = CarouselError(
        "SEQUENCE_GAP", "a gap", metadata={"expected": 3}, retry_after_s=0.5, field="seq", seq=7
    )
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is CarouselError
    assert vars(again) == vars(error)
    assert str(again) == str(error)
