"""Cursors, and the log of the steps that may be needed again."""

from __future__ import annotations

import numpy as np
import pytest

from carousel._core.cursors import Cursors, SentInputs, StepLog
from carousel_protos.v1 import carousel_pb2 as pb


def log_of(*spans: tuple[int, int]) -> StepLog:
    log = StepLog()
    log.inputs.extend(SentInputs(first, last, 0, pb.Block()) for first, last in spans)
    return log


def spans(log: StepLog) -> list[tuple[int, int]]:
    return [(kept.first, kept.last) for kept in log.inputs]


@pytest.mark.parametrize(
    ("tracks_durable", "durable", "forgettable"), [(False, 0, 7), (True, 0, 0), (True, 9, 7)]
)
def test_inputs_are_needed_until_received_and_durable_where_that_is_tracked(
    tracks_durable: bool, durable: int, forgettable: int
) -> None:
    cursors = Cursors(received=7, sent=9, durable=durable, tracks_durable=tracks_durable)
    assert cursors.forgettable == forgettable


def test_only_what_was_read_and_told_by_this_activation_is_confirmed() -> None:
    assert Cursors(received=7, unread=2).ackable == 5
    assert Cursors(received=7, heard=3).ackable == 3
    assert Cursors(received=7, heard=6, unread=2).ackable == 5


def test_the_room_is_what_the_window_leaves() -> None:
    assert Cursors(window=4, received=7, sent=9).room == 2
    assert Cursors(window=4, received=7, sent=9, tracks_durable=True, durable=6).room == 1
    assert Cursors(window=4, received=7, sent=9, heard=5).room == 0


def test_a_bound_says_what_holds() -> None:
    cursors = Cursors(received=7, sent=9, heard=3, durable=8, window=2)
    cursors.take(pb.Session(durability=pb.DURABILITY_SYNC, durable=5, ack=4))
    assert (cursors.window, cursors.durable, cursors.acked) == (1, 5, 4)
    assert cursors.tracks_durable
    assert cursors.heard is None
    assert (cursors.received, cursors.sent) == (7, 9)
    cursors.take(pb.Session(durability=pb.DURABILITY_NONE, window_steps=8))
    assert (cursors.window, cursors.tracks_durable) == (8, False)


def test_a_roll_back_and_a_move_leave_no_gap() -> None:
    cursors = Cursors(received=3, sent=9, next_seq=12, resent=9)
    cursors.roll_back(5)
    assert (cursors.sent, cursors.next_seq, cursors.resent) == (4, 5, 4)
    cursors.move_to(6)
    assert (cursors.received, cursors.sent, cursors.next_seq) == (6, 6, 7)


def test_inputs_are_dropped_by_the_block() -> None:
    log = log_of((1, 2), (3, 4), (5, 6))
    log.forget(Cursors(received=4, sent=6))
    assert spans(log) == [(5, 6)]
    log.forget(Cursors(received=5, sent=6))
    assert spans(log) == [(5, 6)]


def test_outputs_are_kept_while_they_may_come_again() -> None:
    log = log_of((3, 4))
    rows = np.zeros((1, 2, 1), np.uint8)
    log.add_outputs(1, 0, rows, durable=2)  # the store has them, and their inputs are gone
    assert not log.outputs
    log.add_outputs(
        3, 0, rows, durable=4
    )  # the store has them, but their inputs could be sent again
    log.add_outputs(5, 0, rows, durable=4)
    assert [(kept.first, kept.last) for kept in log.outputs] == [(3, 4), (5, 6)]
    log.forget(Cursors(received=6, sent=6, durable=4, tracks_durable=True))
    assert [(kept.first, kept.last) for kept in log.outputs] == [(5, 6)]
    log.clear()
    assert (len(log.inputs), len(log.outputs)) == (0, 0)


@pytest.mark.parametrize(
    ("seq", "left", "more"),
    [
        (7, [(1, 2), (3, 6)], False),
        (5, [(1, 2), (3, 4)], False),
        (3, [(1, 2)], False),
        (2, [(1, 1)], True),
        (1, [], True),
    ],
)
def test_a_cut_tells_whether_later_blocks_are_in_flight(
    seq: int, left: list[tuple[int, int]], more: bool
) -> None:
    log = log_of((1, 2), (3, 6))
    assert log.cut(seq) is more
    assert spans(log) == left
