"""The engine against an oracle that adds numbers: any interleaving of clients' doings.

Whatever is sent, in whatever order, with repeats, gaps, reused seqs, resets, closed sessions and slow ticks
in between: a session's outputs are the running sums of its accepted inputs since the last reset, on top of
what it began with. Each seq comes once per request, in order. Nobody else's doings change them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)
from hypothesis.strategies import booleans, integers, lists, none, sampled_from

from carousel_server.core.ports import (
    Ack,
    Bind,
    Close,
    Export,
    Fork,
    Import,
    ReadState,
    Replay,
    StepBlock,
    Unbind,
)
from carousel_server.core.types import OpenSpec, SessionRef
from carousel_server.engine.scheduler import Batch
from tests.unit.engine.fakes import RecordingSink, Rig, rows

WINDOW = 8
BEGINNINGS = none() | integers(-9, 9)


@dataclass(eq=False)
class Client:
    """What one honest client remembers of its session."""

    ref: SessionRef
    tag: int
    sink: RecordingSink
    sent: list[float] = field(default_factory=list)  # inputs accepted, by seq - 1
    resets: list[bool] = field(default_factory=list)  # likewise: which start from zero
    ack: int = 0
    inherited: int = 0  # steps that ran before this session was copied from another
    initial: float = 0.0  # where a reset goes back to
    given: float | None = None  # what it began with in its place

    def sums(self) -> list[float]:
        sums: list[float] = []
        last = self.initial if self.given is None else self.given
        for value, reset in zip(self.sent, self.resets, strict=True):
            last = (self.initial if reset else last) + value
            sums.append(last)
        return sums


class EngineMachine(RuleBasedStateMachine):
    """Random commands to an engine of four slots, three rows a batch, two steps a chunk."""

    clients = Bundle("clients")

    @initialize()
    def start(self) -> None:
        self.rig = Rig(slots=4, max_batch=3, chunk_steps=2, window_steps=WINDOW)
        self.sinks = [RecordingSink(), RecordingSink()]
        self.tags = 0
        self.open: list[Client] = []
        self.expected_refusals = 0
        engine = self.rig.engine
        step = engine._stepping.step

        def checked(batch: Batch, now: float) -> None:
            assert len(set(batch.rows.tolist())) == len(batch.rows), "two steps of one session"
            assert len(batch.rows) <= 3
            assert batch.counts.max() <= 2
            assert (batch.counts <= engine._rows.table.pending[batch.rows]).all()
            step(batch, now)

        engine._stepping.step = checked  # type: ignore[method-assign]

    @rule(target=clients, sink=integers(0, 1), name=sampled_from(["", "seven"]), given=BEGINNINGS)
    def open_session(self, sink: int, name: str, given: int | None) -> object:
        if len(self.open) == 4:
            return multiple()
        self.tags += 1
        state = () if given is None else (("sum", rows(float(given))),)
        ref = self.rig.open(initial=name, state=state)
        self.rig.bind(ref, self.sinks[sink], self.tags)
        initial = 7.0 if name else 0.0
        client = Client(ref, self.tags, self.sinks[sink], initial=initial, given=given)
        self.open.append(client)
        return client

    @rule(client=clients)
    def read_the_state(self, client: Client) -> None:
        self.rig.settle()
        [(_, state)], _ = self.rig.run(ReadState(client.ref))
        [(value, negative)] = np.frombuffer(state, "<f4").reshape(1, 2).tolist()
        last = client.initial if client.given is None else client.given
        assert [value, -negative] == [client.sums()[-1] if client.sent else last] * 2

    @rule(client=consumes(clients))
    def close_session(self, client: Client) -> None:
        self.rig.engine.submit(Close(client.ref))
        self.rig.tick()
        self.open.remove(client)

    @rule(
        client=clients,
        values=lists(integers(-9, 9), min_size=1, max_size=4),
        resets=lists(booleans(), min_size=4, max_size=4),
    )
    def send(self, client: Client, values: list[int], resets: list[bool]) -> None:
        room = client.ack + WINDOW - len(client.sent)
        if room <= 0:
            return
        some = [float(v) for v in values[:room]]
        self._submit(client, len(client.sent) + 1, some, resets[: len(some)])

    @rule(client=clients, values=lists(integers(-9, 9), min_size=1, max_size=4))
    def send_beyond_the_window(self, client: Client, values: list[int]) -> None:
        if len(client.sent) + len(values) > client.ack + WINDOW:
            self._refused(client, len(client.sent) + 1, [float(v) for v in values])

    @rule(client=clients, skip=integers(1, 5))
    def send_with_a_gap(self, client: Client, skip: int) -> None:
        self._refused(client, len(client.sent) + 1 + skip, [1.0])

    @rule(client=clients, back=integers(1, 4))
    def send_again(self, client: Client, back: int) -> None:
        first = len(client.sent) + 1 - back
        if first > client.ack:
            again = client.sent[first - 1 :]
            self._submit(client, first, again, client.resets[first - 1 :], new=0)

    @rule(client=clients)
    def reuse_a_seq(self, client: Client) -> None:
        if len(client.sent) > client.ack:
            self._refused(client, len(client.sent), [client.sent[-1] + 100.0])

    @rule(client=clients, new=integers(0, 2))
    def reuse_a_seq_with_another_reset(self, client: Client, new: int) -> None:
        if len(client.sent) > client.ack:
            values = [client.sent[-1], *[1.0] * new]
            self._refused(client, len(client.sent), values, [not client.resets[-1]])

    @rule(client=clients, upto=integers(0, 20))
    def acknowledge(self, client: Client, upto: int) -> None:
        upto = min(upto, self._applied(client))
        self.rig.engine.submit(Ack(client.sink, [client.ref], [upto]))
        self.rig.tick()
        client.ack = max(client.ack, upto)

    @rule(client=clients, sink=integers(0, 1))
    def bind_elsewhere(self, client: Client, sink: int) -> None:
        client.sink = self.sinks[sink]
        self.rig.engine.submit(Bind(client.ref, client.sink, client.tag))
        self.rig.tick()

    @rule(client=clients, upto=integers(0, 20), value=integers(-9, 9))
    def send_with_an_ack(self, client: Client, upto: int, value: int) -> None:
        upto = min(upto, self._applied(client))
        if len(client.sent) < max(client.ack, upto) + WINDOW:
            client.ack = max(client.ack, upto)
            self._submit(client, len(client.sent) + 1, [float(value)], acks=[upto])

    @rule(client=clients)
    def leave_and_ask_again(self, client: Client) -> None:
        self.rig.engine.submit(Unbind(client.ref, client.sink))
        self.rig.settle()
        self.rig.engine.submit(Bind(client.ref, client.sink, client.tag))
        before = len(client.sink.steps)
        self.rig.run(Replay(client.ref, client.sink))
        again = [step.seq for step in client.sink.steps[before:] if step.tag == client.tag]
        assert again == list(range(client.ack + 1, len(client.sent) + 1))

    @rule(target=clients, client=clients, as_bytes=booleans())
    def copy_a_session(self, client: Client, as_bytes: bool) -> object:
        if len(self.open) == 4:
            return multiple()
        self.rig.settle()
        spec = OpenSpec("t", "")
        if as_bytes:
            data, _ = self.rig.run(Export(client.ref))
            ref = self.rig.run(Import(data, spec))[0]
        else:
            ref = self.rig.run(Fork(client.ref, spec))[0]
        self.tags += 1
        sent, resets = list(client.sent), list(client.resets)
        copy = replace(
            client, ref=ref, tag=self.tags, sent=sent, resets=resets, inherited=len(sent)
        )
        self.rig.bind(ref, copy.sink, copy.tag)
        self.open.append(copy)
        return copy

    @rule(both=booleans())
    def tick(self, both: bool) -> None:
        self.rig.tick()
        if both:
            self.rig.tick()

    @invariant()
    def outputs_are_the_running_sums(self) -> None:
        if not hasattr(self, "rig"):
            return
        for client in self.open:
            sums = client.sums()
            for sink in self.sinks:
                for seq, row in sink.of(client.tag):
                    assert row == [sums[seq - 1], -sums[seq - 1]], f"step {seq} is wrong"

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        self.rig.settle()
        assert sum(len(sink.refusals) for sink in self.sinks) == self.expected_refusals
        for client in self.open:
            assert self._applied(client) == len(client.sent), "a step was lost"
            seen = {s for sink in self.sinks for s, _ in sink.of(client.tag)}
            expected = set(range(client.inherited + 1, len(client.sent) + 1))
            assert expected <= seen, "an output was lost"
        self.outputs_are_the_running_sums()
        self.rig.engine.check_integrity()

    def _submit(
        self,
        client: Client,
        first: int,
        values: list[float],
        resets: Sequence[bool] = (),
        new: int | None = None,
        acks: Sequence[int] = (),
    ) -> None:
        data = rows(*values)
        steps = len(values)
        resets = [*resets, *[False] * (steps - len(resets))]
        block = StepBlock(
            client.sink,
            [client.tag],
            [client.ref],
            [first],
            steps,
            data,
            acks,
            resets=bytes(resets) if any(resets) else b"",
        )
        self.rig.engine.submit(block)
        if new is None:
            client.sent += values
            client.resets += resets

    def _refused(
        self, client: Client, first: int, values: list[float], resets: Sequence[bool] = ()
    ) -> None:
        self._submit(client, first, values, resets, new=0)
        self.rig.tick()
        self.expected_refusals += 1

    def _applied(self, client: Client) -> int:
        return int(self.rig.engine._rows.table.applied[client.ref.row])


EngineMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestEngine = EngineMachine.TestCase
