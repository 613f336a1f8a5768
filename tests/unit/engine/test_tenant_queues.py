"""What tenants have sent waits in queues of their own: a flood of one does not delay the others."""

from __future__ import annotations

import numpy as np
import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import Ack, Close, Command, Get, StepBlock, Unbind
from carousel_server.core.types import SessionRef
from carousel_server.engine.inbox import Inbox

from .fakes import RecordingSink, Rig, block, rows

WIDE = 600
"""Sessions of a block of the flood: two blocks are more than a tick takes of one of several tenants."""


def inbox_of(rig: Rig) -> Inbox:
    return Inbox(100, 1 << 30, 1.0, rig.engine._rows.table)


def flooded(rig: Rig, blocks: int) -> RecordingSink:
    """A tenant sends many blocks of which none is next in its sessions."""
    sink = RecordingSink()
    refs = [rig.open(tenant="flood") for _ in range(WIDE)]
    for tag, ref in enumerate(refs):
        rig.bind(ref, sink, tag)
    for number in range(blocks):
        ones = rows(*[1.0] * WIDE)
        seqs = [number + 2] * WIDE
        rig.engine.submit(StepBlock(sink, list(range(WIDE)), refs, seqs, 1, ones, tenant="flood"))
    return sink


def test_the_step_of_another_tenant_runs_in_the_next_tick() -> None:
    rig, sink = Rig(slots=WIDE + 1, max_batch=WIDE), RecordingSink()
    steady = rig.open("steady", tenant="steady")
    rig.bind(steady, sink)
    refused = flooded(rig, 20)
    rig.engine.submit(block(sink, steady, 1, 7, tenant="steady"))
    rig.tick()
    assert sink.of(1) == [(1, [7, -7])]
    assert len(refused.refusals) == 2 * WIDE
    assert not rig.engine.idle
    rig.settle()
    assert len(refused.refusals) == 20 * WIDE
    assert refused.reasons == ["SEQUENCE_GAP"] * 20 * WIDE


def test_what_waits_still_counts_against_the_limit_of_the_inbox() -> None:
    rig = Rig(slots=WIDE + 1, max_batch=WIDE, inbox_commands=20)
    rig.open("steady", tenant="steady")
    sink = flooded(rig, 20)
    with pytest.raises(CarouselError, match="commands"):
        rig.engine.submit(StepBlock(sink, [0], [SessionRef(0, 0)], [1], 1, rows(1)))
    rig.tick()
    assert rig.engine.pending() == 18


def test_a_tenant_alone_is_served_up_to_a_whole_batch_in_order() -> None:
    rig = Rig()
    ref, sink = rig.open(tenant="only"), RecordingSink()
    inbox = inbox_of(rig)
    commands: list[Command] = [
        block(sink, ref, 1, 1), Ack(sink, [ref], [0]), Get(ref), block(sink, ref, 2, 1),
        Unbind(ref, sink), Close(ref),
    ]  # fmt: skip
    for command in commands:
        inbox.put(command)
    assert [command for command, _ in inbox.drain()] == commands
    assert not len(inbox)


def test_a_tick_ends_though_one_tenant_has_more() -> None:
    rig, sink = Rig(), RecordingSink()
    ref, other = rig.open(tenant="flood"), rig.open(tenant="steady")
    inbox = inbox_of(rig)
    refs = [ref] * 300  # never looked at here
    many = [StepBlock(sink, [1] * 300, refs, [1] * 300, 1, rows(*[1.0] * 300)) for _ in range(9)]
    for command in (*many, Close(ref), Close(other)):
        inbox.put(command)
    sizes, order = [], []
    while len(inbox):
        taken = [command for command, _ in inbox.drain()]
        sizes.append(len(taken))
        order += taken
    assert sizes == [4 + 1, 4, 2]
    assert [command for command in order if not isinstance(command, Close)] == many
    assert order[-1].ref == ref
    assert np.unique([len(command.refs) for command in many]).tolist() == [300]


def test_of_commands_that_come_together_each_is_refused_alone() -> None:
    rig, sink = Rig(), RecordingSink()
    inbox = Inbox(3, 1 << 30, 1.0, rig.engine._rows.table)
    ref = rig.open()
    blocks = [StepBlock(sink, [7], [ref], [seq], 1, rows(1), [seq - 1]) for seq in range(1, 6)]
    refused = inbox.put_all(blocks)
    assert [(block.first_seqs, error.reason) for block, error in refused] == [
        ([4], "QUEUE_FULL"), ([5], "QUEUE_FULL"),
    ]  # fmt: skip
    late, *taken = inbox.drain()
    assert isinstance(late[0], Ack)
    assert late[0].acks == [4], "the acks of refused blocks are kept"
    assert [command for command, _ in taken] == blocks[:3]


def test_a_closed_inbox_refuses_all_that_come_together() -> None:
    rig, sink = Rig(), RecordingSink()
    inbox = inbox_of(rig)
    inbox.close(CarouselError("DRAINING", "the end"))
    blocks = [block(sink, rig.open(), seq, 7) for seq in (1, 2)]
    assert [error.reason for _, error in inbox.put_all(blocks)] == ["DRAINING"] * 2
    assert not len(inbox)


def test_the_sinks_of_blocks_get_why_the_engine_did_not_take_them() -> None:
    rig, sinks = Rig(inbox_commands=1), [RecordingSink(), RecordingSink()]
    refs = [rig.open(f"s{i}") for i in range(2)]
    for ref, sink in zip(refs, sinks, strict=True):
        rig.bind(ref, sink)
    rig.engine.submit_steps([block(*pair, 1, 7) for pair in zip(sinks, refs, strict=True)])
    rig.settle()
    assert [sink.reasons for sink in sinks] == [[], ["QUEUE_FULL"]]
    assert sinks[0].of(1)
