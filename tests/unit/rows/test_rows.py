"""The rows: their arrays cannot be written from outside, and each verb changes what it says."""

from __future__ import annotations

import numpy as np
import pytest

from carousel_server.core.context import NoStore
from carousel_server.core.errors import CarouselError
from carousel_server.core.futures import settle
from carousel_server.core.moves import Hold
from carousel_server.core.ports import Open
from carousel_server.core.store import Read, SessionKey
from carousel_server.core.types import OpenSpec, Phase
from carousel_server.rows.lifecycle import Event
from carousel_server.rows.rows import Rows, Start
from carousel_server.rows.table import SessionTable
from tests.unit.engine.fakes import WIDTH, RecordingSink, Rig

GONE = CarouselError("SESSION_CLOSED", "it is over")
ARRAYS = [name for name, array in vars(SessionTable(1)).items() if isinstance(array, np.ndarray)]


@pytest.fixture
def rows() -> Rows:
    """Of a model whose steps have one number, for eight sessions."""
    return Rig().engine._rows


def begin(rows: Rows, session_id: str = "s", epoch: int = 1) -> int:
    spec = OpenSpec("t", session_id, idle_ttl_s=60.0, seed=7)
    return rows.begin(Start(spec, 1e9, epoch), now=5.0).row


def accept(rows: Rows, row: int, first: int, steps: int = 1) -> None:
    inputs = np.zeros((1, steps, WIDTH * 4), np.uint8)
    never = np.asarray([np.inf])
    rows.accept(np.asarray([row]), np.asarray([first]), inputs, never, never, now=6.0)


@pytest.mark.parametrize("name", ARRAYS)
def test_no_array_can_be_written_from_outside(rows: Rows, name: str) -> None:
    with pytest.raises(ValueError, match="read-only"):
        getattr(rows.table, name)[0] = 0


def test_what_a_verb_writes_is_seen_at_once(rows: Rows) -> None:
    row = begin(rows, epoch=3)
    table = rows.table
    assert (table.epoch[row], table.seed[row], table.idle_ttl_s[row]) == (3, 7, 60.0)
    accept(rows, row, 1, steps=3)
    assert (table.received[row], table.pending[row], table.last_used_s[row]) == (3, 3, 6.0)
    one = np.asarray([row])
    rows.ran(one, np.asarray([2]), now=7.0)
    assert (table.applied[row], table.pending[row], table.last_used_s[row]) == (2, 1, 7.0)
    rows.acknowledge(one, np.asarray([9]))
    assert table.ack[row] == 2, "no further than what was told"
    rows.acknowledge(one, np.asarray([1]))
    assert table.ack[row] == 2, "never back"
    assert rows.drop_pending(one).tolist() == [3]
    assert (table.received[row], table.pending[row]) == (2, 0)
    rows.check_integrity()


def test_a_generation_feeds_its_own_steps(rows: Rows) -> None:
    row = begin(rows)
    accept(rows, row, 1)
    one = np.asarray([row])
    rows.ran(one, np.asarray([1]), now=7.0)
    rows.generate(row, reset=False)
    rows.feed(one, 4)
    table = rows.table
    assert (table.generating[row], table.ack[row], table.pending[row]) == (True, 1, 4)
    rows.ran(one, np.asarray([3]), now=8.0)
    rows.generated(one)
    assert (table.applied[row], table.received[row], table.ack[row]) == (4, 4, 4)
    rows.end_generation(row)
    assert (table.generating[row], table.pending[row]) == (False, 0)
    rows.check_integrity()


def test_a_session_that_leaves_is_told_to_its_sink_and_zeroed(rows: Rows) -> None:
    row, sink, left = begin(rows), RecordingSink(), list[int]()
    ref = rows.ref(row)
    rows.leaving = left.append
    rows.listeners.bind(row, sink, 4, Hold.STREAM, GONE)
    assert rows.listeners.is_bound(row, sink)
    accept(rows, row, 1)
    view = rows.leave(row, Event.CLOSE, GONE)
    assert (view.phase, left, rows.slots.used) == (Phase.CLOSED, [row], 0)
    assert sink.gone == [(4, GONE)]
    assert not rows.is_live(ref)
    with pytest.raises(CarouselError, match="s"):
        rows.row_of(ref)
    rows.check_integrity()


def test_while_the_server_drains_sessions_are_draining_and_none_is_parked(rows: Rows) -> None:
    row = begin(rows)
    rows.drain()
    assert rows.draining
    assert rows.view(rows.ref(row)).phase is Phase.DRAINING
    with pytest.raises(AssertionError, match="met park"):
        rows.leave(row, Event.PARK, GONE)
    assert rows.leave(row, Event.REVOKE, GONE).phase is Phase.PARKED


def test_a_server_without_a_store_promises_nothing() -> None:
    store = NoStore()
    assert (store.levels, store.lease_lost, store.fault) == (frozenset(), 0, "")
    assert store.now_unix_s() < store.lease_until_s
    with pytest.raises(CarouselError, match="no store"):
        store.submit(Read(SessionKey("t", "s")))


def test_a_reply_that_its_caller_has_cancelled_stays_cancelled() -> None:
    command = Open(OpenSpec("t", "s"))
    command.reply.cancel()
    settle(command.reply, GONE)
    assert command.reply.cancelled()
    other = Open(OpenSpec("t", "s"))
    settle(other.reply, GONE)
    settle(other.reply, None)
    assert other.reply.exception() is GONE
