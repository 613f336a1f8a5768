"""`reset()` and `resets`: the flag goes with its step, over breaks, crashes, refusals and journals."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import carousel
from carousel._core.resets import (
    GIVEN,
    NextReset,
    block_resets,
    given_resets,
    wire_resets,
    with_marks,
)
from carousel._core.tickets import MARKED
from carousel.testing import FakeServer
from carousel.testing.refusals import Refusal
from carousel_protos.v1 import carousel_pb2 as pb

from .miniature import MiniServer, World, fold, outputs_of
from .support import MODELS, WINDOW, opened, sums
from .test_journal import Memory
from .test_journal import begun as begun_journal

XS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]
PLACES = (0, 4, 5, 11)
ROWS = np.arange(60, dtype=np.float32).reshape(30, 2) % 7
RESETS = np.isin(np.arange(30), (3, 4, 11, 27))


def episodes(rows: Any, resets: Any) -> Any:
    """What `sum` answers to rows of which some begin an episode."""
    starts = [0, *np.flatnonzero(resets[1:]) + 1, len(rows)]
    return np.concatenate([sums(rows[a:b]) for a, b in itertools.pairwise(starts)])


def flags(*places: int, steps: int = len(XS), value: int = GIVEN) -> Any:
    return np.isin(np.arange(steps), places).astype(np.uint8)[None] * value


def bare(session: Any) -> Any:
    """A session of either client, for a source of rows, which runs on the client's own loop."""
    return getattr(session, "wrapped", session)


def run_out(world: World, *tickets: object) -> None:
    while not set(map(id, tickets)) <= set(map(id, world.ended)):
        world.server.commit()
        world.deliver()


# -- the core


@pytest.mark.parametrize("durability", [pb.DURABILITY_NONE, *pb.Durability.values()[2:4]])
@pytest.mark.parametrize("delivered", range(9))
def test_resets_go_again_with_their_steps_after_a_break(durability: int, delivered: int) -> None:
    world = World(MiniServer(durability))
    ticket = world.submit(world.open(), XS, resets=flags(*PLACES))
    world.server.commit()
    world.deliver(delivered)
    world.break_()
    world.resume()
    run_out(world, ticket)
    assert ticket.error is None
    assert outputs_of(ticket) == fold(XS, PLACES)


@pytest.mark.parametrize("committed", range(8))
@pytest.mark.parametrize("delivered", range(9))
def test_resets_go_again_with_their_steps_after_a_crash(committed: int, delivered: int) -> None:
    """Those that ran before the store had them too; a server that got other resets refuses the steps."""
    world = World()
    lane = world.open()
    tickets = [
        world.submit(lane, [x], resets=flags(0, steps=1) if i in PLACES else None)
        for i, x in enumerate(XS)
    ]
    for _ in range(committed):
        world.deliver(1)
    world.server.commit()
    world.deliver(delivered)
    world.crash()
    world.resume()
    run_out(world, tickets[-1])
    assert [outputs_of(ticket)[0] for ticket in tickets] == fold(XS, PLACES)
    assert all(ticket.error is None for ticket in tickets)


def test_a_block_of_many_sessions_has_the_resets_of_each() -> None:
    world = World()
    lanes = [world.open(name) for name in "abc"]
    rows = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    marks = np.asarray([[0, 1, 0], [0, 0, 0], [1, 0, 1]], np.uint8)
    ticket = world.submit(lanes, *rows, resets=marks)
    world.deliver()
    for place, row in enumerate(rows):
        wanted = fold(row, np.flatnonzero(marks[place]).tolist())
        assert outputs_of(ticket, place) == wanted
    blocks = [request.block for request in world.sent if request.HasField("block")]
    assert [block.resets for block in blocks] == [marks.tobytes()]


def test_a_block_without_resets_says_nothing_of_them() -> None:
    world = World()
    lane = world.open()
    world.submit(lane, XS[:4], resets=flags(steps=4))
    world.submit(lane, XS[4:8])
    assert not any(r.block.resets for r in world.sent if r.HasField("block"))


@pytest.mark.parametrize("seq", [1, 2, 3])
def test_a_marked_step_that_is_refused_leaves_its_mark_for_the_next(seq: int) -> None:
    """Only where the first step that did not run is the marked one."""
    world = World(MiniServer(pb.DURABILITY_NONE))
    lane = world.open()
    tickets = []
    for i, x in enumerate(XS[:3]):
        if i == seq - 1:
            world.server.refuse_steps.append(Refusal("STEP_FAILED"))
        marks = flags(0, steps=1, value=MARKED) if i == 1 else None
        tickets.append(world.submit(lane, [x], resets=marks))
    world.deliver()
    world.deliver()
    assert [ticket.error is None for ticket in tickets] == [i < seq - 1 for i in range(3)]
    assert lane.next_reset.take() == (seq == 2)


def test_a_given_reset_is_the_callers_to_give_again() -> None:
    world = World(MiniServer(pb.DURABILITY_NONE))
    lane = world.open()
    world.server.refuse_steps.append(Refusal("STEP_FAILED"))
    ticket = world.submit(lane, [1, 2], resets=flags(0, steps=2))
    world.deliver()
    assert ticket.error is not None
    assert not lane.next_reset.take()


@pytest.mark.parametrize("keep", [pb.DURABILITY_ASYNC, pb.DURABILITY_NONE])
@pytest.mark.parametrize("delivered", range(0, 12, 2))
def test_a_journal_has_the_resets_of_what_it_sends_again(keep: int, delivered: int) -> None:
    memory = Memory()
    world = World(MiniServer(keep))
    lane = world.open("s", begun_journal(memory))
    world.submit(lane, XS[:8], resets=flags(0, 3, 4, steps=8))
    world.server.commit()
    world.deliver(delivered)
    world.break_()
    if keep != pb.DURABILITY_NONE:
        world.server.crash()
    again = World(world.server)
    journal = carousel._core.journal.Journal(memory, memory.data)
    lane = again.bind("s", journal).lane
    again.deliver()
    more = again.submit(lane, XS[8:10], resets=flags(1, steps=2))
    run_out(again, more)
    assert outputs_of(more) == fold(XS[:10], (0, 3, 4, 9))[8:]


# -- the parts


def test_a_mark_is_for_one_step() -> None:
    mark = NextReset()
    assert not mark.take()
    mark.mark()
    mark.mark()
    assert [mark.take(), mark.take()] == [True, False]


def test_a_mark_is_taken_once_by_many_threads() -> None:
    mark, taken = NextReset(), list[bool]()
    for _ in range(50):
        mark.mark()
        threads = [threading.Thread(target=lambda: taken.append(mark.take())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(taken) == 50


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([True, False, True], [1, 0, 1]),
        ((0, 1, 0), [0, 1, 0]),
        (np.asarray([0, 0, 1], np.int64), [0, 0, 1]),
    ],
)
def test_resets_are_booleans(given: Any, wanted: list[int]) -> None:
    found = given_resets(given, 3)
    assert found is not None
    assert (found.tolist(), found.dtype) == (wanted, np.uint8)
    assert given_resets(None, 3) is None
    assert given_resets([False] * 3, 3) is None


@pytest.mark.parametrize("given", [[0, 2, 0], [0.0, 1.0, 0.0], ["a", "b", "c"], [None] * 3])
def test_other_values_are_refused(given: Any) -> None:
    with pytest.raises(carousel.InputDtypeError, match="resets"):
        given_resets(given, 3)


@pytest.mark.parametrize("given", [[True], True, [[True] * 3], [True] * 4])
def test_resets_of_another_shape_are_refused(given: Any) -> None:
    with pytest.raises(carousel.InputShapeError, match=r"shape \[3\]"):
        given_resets(given, 3)


def test_marks_are_joined_with_what_is_given() -> None:
    given = np.asarray([[0, 1], [0, 0]], np.uint8)
    assert with_marks(None, [False, False], 2) is None
    assert with_marks(given, [False, False], 2) is given
    joined = with_marks(given, [True, False], 2)
    assert joined is not None
    assert (joined.tolist(), given[0, 0]) == ([[MARKED, 1], [0, 0]], 0)
    assert wire_resets(joined) == b"\1\1\0\0"
    assert wire_resets(np.zeros((2, 2), np.uint8)) == wire_resets(None) == b""


def test_the_mark_of_a_row_that_is_refused_is_for_the_next() -> None:
    mark = NextReset()
    assert block_resets([False, True, False], 3, mark) is not None
    assert not mark.take()
    assert block_resets([False, True, False], 1, mark) is None
    assert mark.take()
    assert block_resets([True], 0, mark) is None
    assert mark.take()


# -- both clients


def test_a_reset_is_for_the_next_step(client: Any) -> None:
    with client.session("sum") as session:
        outputs = []
        for row, reset in zip(ROWS, RESETS, strict=True):
            if reset:
                session.reset()
            outputs.append(session.step(row))
        np.testing.assert_array_equal(outputs, episodes(ROWS, RESETS))
        session.reset()
        np.testing.assert_array_equal(session.steps(ROWS[:20]), sums(ROWS[:20]))


def test_steps_take_an_array_of_resets(client: Any) -> None:
    with client.session("sum") as session:
        found = session.steps(ROWS, resets=RESETS)
        np.testing.assert_array_equal(found, episodes(ROWS, RESETS))
        session.reset()
        found = session.steps(ROWS, resets=RESETS.tolist())
        np.testing.assert_array_equal(found, episodes(ROWS, RESETS))
        with pytest.raises(carousel.InputShapeError):
            session.steps(ROWS, resets=RESETS[1:])
        assert session.applied == 60


@pytest.mark.parametrize("block_steps", [1, 4, 7])
def test_the_source_of_a_stream_resets(client: Any, block_steps: int) -> None:
    with client.session("sum") as session:

        def rows() -> Iterator[Any]:
            for row, reset in zip(ROWS, RESETS, strict=True):
                if reset:
                    bare(session).reset()
                yield row

        found = list(session.stream(rows(), block_steps=block_steps))
        np.testing.assert_array_equal(found, episodes(ROWS, RESETS))


def test_a_live_source_resets(fake: FakeServer) -> None:
    async def main() -> list[Any]:
        async with carousel.AsyncClient(fake.target) as client, client.session("sum") as session:

            async def rows() -> Any:
                for row, reset in zip(ROWS, RESETS, strict=True):
                    await asyncio.sleep(0)
                    if reset:
                        session.reset()
                    yield row

            return [output async for output in session.stream(rows(), ahead=5)]

    np.testing.assert_array_equal(asyncio.run(main()), episodes(ROWS, RESETS))


def test_a_batch_resets_some_of_its_sessions(client: Any) -> None:
    sessions = [opened(client.session("sum")) for _ in range(3)]
    batch = client.batch(sessions)
    batch.steps(np.stack([ROWS[:5]] * 3))
    found = batch.step(ROWS[:3], resets=[True, False, False])
    np.testing.assert_array_equal(found[0], sums(ROWS[:1])[0])
    np.testing.assert_array_equal(found[1:, 0], ROWS[:5].sum() + ROWS[1:3].sum(1))
    sessions[1].reset()
    marks = np.zeros((3, 6), bool)
    marks[2, 4] = True
    before = found[:, 0]
    found = batch.steps(np.stack([ROWS[:6]] * 3), resets=marks)
    np.testing.assert_array_equal(found[0], sums(ROWS[:6], before[0]))
    np.testing.assert_array_equal(found[1], sums(ROWS[:6]))
    np.testing.assert_array_equal(found[2][4:], sums(ROWS[4:6]))
    for session in sessions:
        session.close()


def test_a_reset_is_kept_until_a_step_has_run(fake: FakeServer, client: Any) -> None:
    with client.session("sum") as session:
        session.steps(ROWS[:3])
        session.reset()
        with pytest.raises(carousel.InvalidInputError):
            session.step(np.zeros(5, np.float32))
        with pytest.raises(carousel.InputNotFiniteError):
            session.step(np.asarray([np.nan, 0], np.float32))
        fake.inject("Step", "QUEUE_FULL", times=2, retry_after_s=0.001)
        np.testing.assert_array_equal(session.step(ROWS[0]), sums(ROWS[:1])[0])
        np.testing.assert_array_equal(session.step(ROWS[1]), sums(ROWS[:2])[1])


def test_steps_are_tried_again_with_their_own_resets(fake: FakeServer, client: Any) -> None:
    resets = np.isin(np.arange(30), (0, 9, 17))
    with client.session("sum") as session:
        session.step(ROWS[0])
        fake.inject("Step", "QUEUE_FULL", times=3, retry_after_s=0.001)
        found = session.steps(ROWS, resets=resets)
        np.testing.assert_array_equal(found, episodes(ROWS, resets))


def test_a_bad_row_of_a_stream_leaves_its_reset_for_the_next(client: Any) -> None:
    with client.session("sum") as session:

        def rows() -> Iterator[Any]:
            yield from ROWS[:3]
            bare(session).reset()
            yield np.zeros(7, np.float32)

        outputs = []
        with pytest.raises(carousel.InputShapeError):
            outputs.extend(session.stream(rows(), block_steps=8))
        np.testing.assert_array_equal(session.step(ROWS[4]), sums(ROWS[4:5])[0])


def test_before_a_step_nothing_is_reset(fake: FakeServer, client: Any) -> None:
    with client.session("sum") as session:
        session.steps(ROWS[:3])
        calls = fake.calls()
        session.reset()
        assert fake.calls() == calls
        copy = opened(client.import_session(session.export()))
        np.testing.assert_array_equal(copy.step(ROWS[3]), sums(ROWS[:4])[3])
        copy.close()
        session.detach()
        with client.attach(session.id) as again:
            np.testing.assert_array_equal(again.step(ROWS[3]), sums(ROWS[:4])[3])
            again.close()


def test_resets_survive_lost_streams_and_a_crash(make_client: Callable[..., Any]) -> None:
    with FakeServer(*MODELS, chunk_steps=3, durable=True) as server:
        client = make_client(server.target, timeout_s=20.0)
        with client.session("sum") as session:
            outputs = []
            for i, (row, reset) in enumerate(zip(ROWS, RESETS, strict=True)):
                if reset:
                    session.reset()
                if i in (4, 11):
                    server.crash()
                elif i in (12, 27):
                    server.break_streams()
                outputs.append(session.step(row))
            np.testing.assert_array_equal(outputs, episodes(ROWS, RESETS))


def test_a_generation_after_a_reset_begins_anew(fake: FakeServer, client: Any) -> None:
    with client.session("letters") as session:
        session.generate("ab", max_tokens=3, temperature=0.0).text()
        session.reset()
        with pytest.raises(carousel.FieldInvalidError):
            session.generate(max_tokens=1).text()
        fake.inject("Generate", "QUEUE_FULL", times=1, retry_after_s=0.001)
        assert session.generate("xy", max_tokens=2, temperature=0.0).text() == "z{"
        assert (
            fake._services.sessions.get(session.id).state == 3
        )  # x, y and z, and nothing from before
        assert session.generate(max_tokens=1, temperature=0.0).text() == "|"


def test_a_journaled_session_goes_on_with_its_resets(
    make_client: Callable[..., Any], tmp_path: Path
) -> None:
    with FakeServer(*MODELS, chunk_steps=3, durable=True) as server:
        first = make_client(server.target, timeout_s=20.0)
        session = opened(first.session("sum", session_id="s", journal=tmp_path / "j"))
        session.step(ROWS[0])
        with server.paused():
            with pytest.raises(carousel.ReplyTimeoutError):
                session.steps(ROWS[1:5], resets=RESETS[1:5], timeout_s=0.05)
            server.break_streams()
            first.close()
        second = make_client(server.target, timeout_s=20.0)
        again = opened(second.session("sum", session_id="s", journal=tmp_path / "j"))
        assert again.submitted == 5
        np.testing.assert_array_equal(again.replay(), episodes(ROWS, RESETS)[1:5])
        np.testing.assert_array_equal(again.step(ROWS[5]), episodes(ROWS, RESETS)[5])
        again.close()


def test_a_window_of_resets_fits_the_message(client: Any) -> None:
    with client.session("sum") as session:
        n = 3 * WINDOW
        rows = np.stack([ROWS[0]] * n)
        found = session.steps(rows, resets=[True] * n)
        np.testing.assert_array_equal(found, np.stack([sums(ROWS[:1])[0]] * n))
