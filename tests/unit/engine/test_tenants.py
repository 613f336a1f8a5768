"""Tenants beside each other in one engine, in ticks: nobody's flood makes another wait."""

from __future__ import annotations

from carousel_server.core.ports import StepBlock
from carousel_server.core.types import SessionRef

from .fakes import RecordingSink, Rig, block, rows

BATCH = 8
FLOOD = 10 * BATCH
"""Sessions of the tenant that floods: ten batches."""


class Flood:
    """A tenant whose sessions always have a full window of steps to run."""

    def __init__(self, rig: Rig) -> None:
        self._rig, self._sink = rig, RecordingSink()
        self._sessions: list[SessionRef] = []
        for tag in range(FLOOD):
            self._sessions.append(rig.open(f"flood-{tag}", tenant="flood"))
            rig.bind(self._sessions[-1], self._sink, tag)
        self._sent = [0] * FLOOD

    @property
    def ran(self) -> int:
        """Steps that have run."""
        return len(self._sink.steps)

    def press(self) -> None:
        """Fills what has come free in each window, and acknowledges what has come back."""
        done = [0] * FLOOD
        for step in self._sink.steps:
            done[step.tag] = step.seq
        for tag, ref in enumerate(self._sessions):
            room = 8 - (self._sent[tag] - done[tag])
            if room:
                more = StepBlock(
                    self._sink, [tag], [ref], [self._sent[tag] + 1], room, rows(*[1.0] * room),
                    [done[tag]],
                )  # fmt: skip
                self._rig.engine.submit(more)
                self._sent[tag] += room


def longest_wait(*, flooded: bool) -> int:
    """Ticks that the steps of a steady tenant wait at most, one step every third tick."""
    rig = Rig(slots=FLOOD + 1, max_batch=BATCH)
    sink = RecordingSink()
    steady = rig.open("steady", tenant="steady")
    rig.bind(steady, sink)
    flood = Flood(rig) if flooded else None
    waits: list[int] = []
    for seq in range(1, 31):
        sent_at = rig.ticks
        rig.engine.submit(block(sink, steady, seq, float(seq), acks=[seq - 1]))
        for _ in range(3):
            if flood is not None:
                flood.press()
            rig.tick()
            if len(sink.steps) == seq and len(waits) < seq:
                waits.append(rig.ticks - sent_at)
    assert [step.seq for step in sink.steps] == list(range(1, 31)), "a step was lost"
    assert not sink.refusals
    if flood is not None:
        assert flood.ran > 30 * 3 * (BATCH - 1), "the flood has not used the rest of each batch"
    return max(waits)


def test_a_steady_tenant_waits_at_most_twice_as_long_beside_a_flood() -> None:
    assert longest_wait(flooded=True) <= 2 * longest_wait(flooded=False)


def test_the_rows_of_each_tenant_are_counted_as_sessions_come_and_go() -> None:
    rig = Rig()
    refs = {name: rig.open(name, tenant=name) for name in ("a", "b", "c")}
    rig.close(refs["a"])
    rig.open("d", tenant="d")
    rig.close(refs["c"])
    table = rig.engine._rows.table
    assert dict(table.tenancy.rows) == {"b": 1, "d": 1}
    rig.tick()  # checks the table


def test_steps_and_sessions_are_told_by_tenant() -> None:
    rig, sink = Rig(), RecordingSink()
    alone = rig.open("x", tenant="a")
    rig.bind(alone, sink, 1)
    rig.engine.submit(block(sink, alone, 1, 1.0, 2.0))
    rig.settle()
    assert rig.metrics.by_tenant == {"a": 2}
    other = rig.open("x", tenant="b")
    rig.bind(other, sink, 2)
    rig.engine.submit(block(sink, alone, 3, 1.0, acks=[2]))
    rig.engine.submit(block(sink, other, 1, 1.0, 2.0, 3.0, tag=2))
    rig.settle()
    assert rig.metrics.by_tenant == {"a": 3, "b": 3}
    rig.now += 10
    rig.tick()
    assert rig.metrics.rows_by_tenant == {"a": 1, "b": 1}
