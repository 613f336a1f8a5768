"""What stands on the rows of one engine, and the only writer of it."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from carousel_server.core.context import Context
from carousel_server.core.errors import CarouselError
from carousel_server.core.store import SessionKey
from carousel_server.core.types import (
    Float64s,
    Int64s,
    OpenSpec,
    Phase,
    SessionRef,
    SessionView,
)

from .ledger import Ledger
from .lifecycle import Event, advance
from .listeners import Listeners
from .placing import Placing
from .slab import Slab
from .slots import Slots
from .snapshot import Snapshot
from .snapshots import Snapshots
from .table import SessionTable, StepQuota
from .tokens import Tokens
from .window import Window


@dataclass(frozen=True, slots=True)
class Start:
    """How a session begins on a row.

    Attributes:
        spec: with its id, seed, durability and idle_ttl_s.
        created_at_unix_s: when it was opened first.
        epoch: of this activation.
        snapshot: where it goes on, which has been checked; None for the initial state that `spec` names.
        whole: no step that was answered is missing from it.
    """

    spec: OpenSpec
    created_at_unix_s: float
    epoch: int = 1
    snapshot: Snapshot | None = None
    whole: bool = True


class Rows:
    """The sessions of one engine, a row each. Used on the engine's thread only.

    Each change of a row is a verb, for one row or for arrays of them. Others read.

    Attributes:
        table: facts of each row, in arrays that cannot be written.
        slots: which rows are whose.
        window: steps in flight.
        ledger: what the store has yet to confirm.
        listeners: who gets the outputs.
        placing: which replica owns each session.
        tokens: what generations have drawn.
        snapshots: takes snapshots of rows.
        step_quota: how many steps of a tenant may wait.
        leaving: called with the row of a session that is about to leave.
    """

    def __init__(self, context: Context, slab: Slab) -> None:
        limits, model = context.limits, context.model
        self._model = model
        self._metrics = context.metrics
        self._clock = context.clock
        self._table = SessionTable(limits.slots)
        self.table = self._table.read_only()
        self.slots = Slots(limits.slots)
        self.slab = slab
        self.window = Window(
            limits.slots, model.window_steps, model.input_row_bytes, model.output_row_bytes
        )
        self.ledger = Ledger(self._table, limits.durable_steps, limits.durable_s)
        self.listeners = Listeners(self._table)
        self.placing = Placing(self._table)
        self.tokens = Tokens(limits.slots, generative=model.generative)
        most_steps = context.quotas.limits.tenant_steps
        self.step_quota = StepQuota(self.table, most_steps, limits.retry_after_s)
        self.snapshots = Snapshots(model, self._table, slab, self.window, self.tokens)
        # Of all sessions on rows.
        self._phase = Phase.RESIDENT
        self.leaving: Callable[[int], None] = _nothing

    # -- reading

    def is_live(self, ref: SessionRef) -> bool:
        """True while the session that `ref` names is on its row."""
        return self.slots.is_live(ref)

    def row_of(self, ref: SessionRef) -> int:
        """The row of a live session.

        Raises:
            CarouselError: SESSION_EXPIRED, SESSION_CLOSED, SESSION_PARKED, LEASE_LOST or
                SESSION_NOT_FOUND.
        """
        if not self.slots.is_live(ref):
            raise self.table.why_gone(ref)
        return ref.row

    def ref(self, row: int) -> SessionRef:
        """The session that is on a row now."""
        return SessionRef(int(row), int(self.slots.generation[row]))

    def key(self, row: int) -> SessionKey:
        """Its name at the store."""
        return SessionKey(self.table.tenants[row], self.table.ids[row])

    def view(self, ref: SessionRef) -> SessionView:
        """A live session as its owner may see it; raises as `row_of`."""
        return self.table.view(self.row_of(ref), self._model, self._phase)

    def views(self, tenant: str, after: str, limit: int) -> list[SessionView]:
        """A tenant's sessions in the order of their ids: the `limit` first ones behind `after`."""
        ids, tenants = self.table.ids, self.table.tenants
        rows = np.flatnonzero(self.slots.taken).tolist()
        chosen = (row for row in rows if tenants[row] == tenant and ids[row] > after)
        page = heapq.nsmallest(limit, chosen, key=ids.__getitem__)
        return [self.table.view(row, self._model, self._phase) for row in page]

    def expired(self, now: float) -> Int64s:
        """Rows whose session has been idle for longer than its idle_ttl_s; int64[n].

        A session with steps to run is not idle, however long ago they came.
        """
        table = self.table
        idle = self.slots.taken & (table.pending == 0)
        return np.flatnonzero(idle & (now - table.last_used_s > table.idle_ttl_s))

    @property
    def draining(self) -> bool:
        """True once the server is shutting down."""
        return self._phase is Phase.DRAINING

    # -- coming and going

    def begin(self, start: Start, now: float) -> SessionRef:
        """Puts a session onto a free row."""
        ref = self.slots.allocate()
        assert ref is not None, "no row is free"
        row = ref.row
        initial = self._model.initial_index(start.spec.initial)
        self.slab.begin(row, initial)
        self.tokens.reset(row)
        self._table.open(row, start.spec, start.epoch, start.created_at_unix_s, now)
        self._table.initial[row] = initial
        if not start.whole:
            self._table.incomplete.add(row)
        if start.snapshot is not None:
            self.snapshots.fill(row, start.snapshot)
        elif start.spec.state:
            self.snapshots.put(row, start.spec.state)
        if self._table.tracked[row]:
            self.ledger.begin(row)
        self.placing.place(row)
        return ref

    def leave(self, row: int, event: Event, error: CarouselError) -> SessionView:
        """Takes a session off its row. Its sink, and those who wait for it, get `error`."""
        ref, after = self.ref(row), advance(self._phase, event)
        self.leaving(row)
        self._table.generating[row] = False
        self.drop_pending(row)
        self.tokens.leave(row, error)
        view = self._table.view(row, self._model, after)
        self.listeners.unbind(row, error)
        self.ledger.end(row, error)
        self._table.close(ref, error.reason)
        self.slab.begin(row)
        self.slots.free(ref)
        return view

    # -- steps

    def accept(
        self,
        rows: Int64s,
        first_seqs: Int64s,
        inputs: np.ndarray,
        arrived_s: Float64s,
        deadline_s: Float64s | None,
        now: float,
        resets: np.ndarray | None = None,
    ) -> None:
        """Takes the next steps of n rows, none twice; see `Window.write_inputs` for the arrays."""
        table, steps = self._table, inputs.shape[1]
        self.window.write_inputs(rows, first_seqs, inputs, arrived_s, deadline_s, resets)
        table.received[rows] = first_seqs + (steps - 1)
        table.pending[rows] += steps
        table.ready.add(rows)
        table.last_used_s[rows] = now

    def ran(self, rows: Int64s, counts: Int64s, now: float) -> None:
        """Moves `applied`: `counts` steps of each row have run."""
        table = self._table
        if self._model.generative and (starting := self._starting(rows)) is not None:
            self.tokens.start_over(rows[starting])
        if table.incomplete and (starting := self._starting(rows)) is not None:
            table.incomplete.difference_update(rows[starting].tolist())
        table.applied[rows] += counts
        table.pending[rows] -= counts
        table.last_used_s[rows] = now
        self.ledger.ran(rows, now)

    def first_reads(self, rows: Int64s) -> Int64s | None:
        """The row of the slab that the next step of each row starts from; None if that is its own for all."""
        starting = self._starting(rows)
        return (
            None
            if starting is None
            else np.where(starting, self.slab.initial_rows(self._table.initial[rows]), rows)
        )

    def _starting(self, rows: Int64s) -> np.ndarray | None:
        """Which rows start from the initial state with their next step; bool[n], None if none does."""
        if not self.window.has_resets:
            return None
        resets = self.window.resets_in(rows, self._table.applied[rows] + 1, 1)
        return None if resets is None else resets[:, 0]

    def deliver(
        self, rows: Int64s, first_seqs: Int64s, at: Int64s, outputs: np.ndarray, now: float
    ) -> None:
        """Keeps outputs uint8[n, steps, row bytes] of fed steps until they are acknowledged, and sends them.

        Those of sync sessions wait until `confirm`. `at` int64[n, steps] are the steps' entries of the
        window. `now` is when the tick began.
        """
        if self._model.generative:
            self.tokens.fed(rows, self.window.inputs[at].view("<i4")[:, :, 0])
        self.window.outputs[at] = outputs
        arrived_s = self.window.arrived_s[at]
        if self.ledger.tracked and (sync := self._table.sync[rows]).any():
            if sync.all():
                return
            rows, first_seqs = rows[~sync], first_seqs[~sync]
            outputs, arrived_s = outputs[~sync], arrived_s[~sync]
        self.listeners.outputs(rows, first_seqs, outputs)
        arrived_s = arrived_s.ravel()
        self._metrics.stepped(now - arrived_s, self._clock() - arrived_s)

    def acknowledge(self, rows: Int64s, acks: Int64s) -> None:
        """Moves ack cursors, never back and never beyond what was sent."""
        table = self._table
        visible = table.visible(rows) if self.ledger.tracked else table.applied[rows]
        np.maximum.at(table.ack, rows, np.minimum(acks, visible))

    def replay(self, row: int, first_seq: int, last_seq: int) -> None:
        """Sends kept outputs again to the session's sink, as far as they may be sent."""
        last_seq = min(last_seq, int(self._table.visible(np.asarray([row]))[0]))
        if last_seq >= first_seq and self._table.sink[row] >= 0:
            rows, firsts = np.asarray([row]), np.asarray([first_seq])
            kept = self.window.outputs[self.window.at(rows, firsts, last_seq - first_seq + 1)]
            self.listeners.outputs(rows, firsts, kept)

    def drop_pending(self, rows: Int64s | int) -> Int64s:
        """Forgets the accepted steps that have not run; returns the seqs of the first of each."""
        table = self._table
        table.received[rows] = table.applied[rows]
        table.pending[rows] = 0
        return np.asarray(table.applied[rows] + 1)

    # -- use

    def use(self, row: int, now: float) -> None:
        """Notes that a client has just used the session, so it is not idle."""
        self._table.last_used_s[row] = now

    def attach(self, row: int, attach_id: int, now: float) -> None:
        """Notes that a newer stream or call has bound the session. A snapshot of that follows."""
        self._table.attach_id[row] = attach_id
        self.ledger.touch(row, now)

    def drain(self) -> None:
        """Changes the phase of all sessions, since the server is shutting down. None begins any more."""
        self._phase = advance(self._phase, Event.DRAIN)

    def stop(self, row: int) -> None:
        """Runs no more steps of the session, which is about to leave. Steps are still accepted."""
        self._table.stopped[row] = True

    def go_on(self, row: int) -> None:
        """Runs the session's steps again, since it stays."""
        self._table.stopped[row] = False

    # -- generations

    def generate(self, row: int, *, reset: bool) -> None:
        """A generation drives the session from now on. Outputs of steps before it count as received.

        With `reset`, its next step starts from the initial state.
        """
        self.generated(row)
        self._table.generating[row] = True
        if reset:
            self.window.start_over(row, int(self._table.applied[row]) + 1)

    def generated(self, rows: Int64s | int) -> None:
        """Steps of these rows' generations have run: there are no outputs to acknowledge."""
        table = self._table
        table.received[rows] = table.ack[rows] = table.applied[rows]
        self.window.forget_resets(rows)

    def feed(self, rows: Int64s, steps: Int64s | int) -> None:
        """The generations of these rows, none twice, have so many tokens to feed."""
        self._table.pending[rows] = steps
        self._table.ready.add(rows)

    def end_generation(self, row: int) -> None:
        """The session is its client's again."""
        self._table.generating[row] = False
        self._table.pending[row] = 0

    # -- the store

    def confirm(self, rows: Int64s, seqs: Int64s, now: float) -> None:
        """The store has these rows up to `seqs` (R7); sends what waited for that, the notice first.

        Those who wait for the store's answer come last. A new binding must not get outputs that it has not
        asked for.
        """
        table = self._table
        # Steps of generations have no outputs to send; they count as acknowledged.
        before = np.maximum(table.durable[rows], table.ack[rows])
        for row, seq in zip(rows.tolist(), seqs.tolist(), strict=True):
            self.ledger.confirm(row, seq)
        self.listeners.durable(rows)
        counts = np.where(table.sync[rows], table.durable[rows] - before, 0)
        for count in np.unique(counts[counts > 0]).tolist():
            chosen = counts == count
            self._send_durable(rows[chosen], before[chosen] + 1, count, now)
        for row in rows.tolist():
            self.tokens.release(row, int(table.durable[row]))
            self.ledger.settle(row)

    def _send_durable(self, rows: Int64s, firsts: Int64s, steps: int, now: float) -> None:
        """Sends outputs of sync sessions that the store has confirmed now."""
        at = self.window.at(rows, firsts, steps)
        self.listeners.outputs(rows, firsts, self.window.outputs[at])
        arrived_s = self.window.arrived_s[at].ravel()
        fed = np.isfinite(arrived_s)
        self._metrics.stepped(np.zeros(int(fed.sum())), now - arrived_s[fed])

    def check_integrity(self) -> None:
        """Asserts that slots, table, ledger and counts agree on who is there."""
        self.slots.check_integrity()
        self.table.check_integrity(self.slots.taken, self._model.window_steps)
        self.ledger.check_integrity()


def _nothing(_row: int) -> None:
    """Stands for what is done when a session leaves, where there is nothing to do."""
