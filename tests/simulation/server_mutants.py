"""Servers with one rule taken out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from carousel_server.core.futures import done
from carousel_server.core.late_acks import LateAcks
from carousel_server.core.ports import Close, ask
from carousel_server.core.store import Outcome, Verdict
from carousel_server.engine import sampling
from carousel_server.engine.admission import Admission
from carousel_server.engine.control import Control
from carousel_server.engine.generation import Generations
from carousel_server.engine.keeper import Keeper
from carousel_server.residency import room
from carousel_server.residency.residency import Residency
from carousel_server.rows import table
from carousel_server.rows.ledger import Ledger
from carousel_server.rows.rows import Rows
from carousel_server.rows.slab import Slab
from carousel_server.rows.slots import Slots
from carousel_server.rows.snapshots import Snapshots
from carousel_server.rows.tokens import TokenOutbox
from carousel_server.store.memory import MemoryStore
from carousel_server.store.unfinished import UnfinishedRequests
from carousel_server.wire import places
from carousel_server.wire.seats import Seats

from .mutants import Mutant, Patches

Real = Callable[..., Any]


def _renumbers(wrong: Callable[[int, int], bool]) -> Callable[[Patches], None]:
    """Steps whose seq is `wrong(first, received)` are taken as the next ones."""

    def make(real: Real) -> Real:
        def resolve(self: Any, new: Any, sink: Any, now: float) -> Any:
            received = int(self._table.received[new.rows[0]])
            if wrong(int(new.first_seqs[0]), received):
                new = dataclasses.replace(new, first_seqs=np.asarray([received + 1]))
            return real(self, new, sink, now)

        return resolve

    def patch(patches: Patches) -> None:
        patches.wrap(Admission, "_resolve", make)
        patches.put(Admission, "_refuse_behind", lambda *_: None)
        patches.put(
            Admission, "_refuse_gaps", lambda _self, new, _ours: np.zeros(len(new.rows), bool)
        )

    return patch


def _keeps_epoch(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def acquire(self: Any, key: Any, **how: Any) -> Any:
            before = self.medium.sessions.get(key)
            record = real(self, key, **how)
            if before is None or record.created:
                return record
            self.medium.sessions[key] = self.medium.sessions[key]._replace(epoch=before.epoch)
            return dataclasses.replace(record, epoch=before.epoch)

        return acquire

    patches.wrap(MemoryStore, "acquire", make)


def _ignores_floor(patches: Patches) -> None:
    def make(real: Real) -> Real:
        return lambda self, key, **how: real(self, key, **(how | {"epoch_floor": 0}))

    def make_check(real: Real) -> Real:
        return lambda self, row, command, now: real(
            self, row, dataclasses.replace(command, epoch_floor=0), now
        )

    patches.wrap(MemoryStore, "acquire", make)
    patches.wrap(Control, "_check_bind", make_check)


def _commits_any_epoch(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def commit(self: Any, one: Any) -> Any:
            kept = self.medium.sessions.get(one.key)
            return real(self, one if kept is None else dataclasses.replace(one, epoch=kept.epoch))

        return commit

    patches.wrap(MemoryStore, "_commit_one", make)


def _commits_any_seq(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def commit(self: Any, one: Any) -> Any:
            outcome = real(self, one)
            if outcome.verdict is not Verdict.STALE:
                return outcome
            kept = self.medium.sessions[one.key]
            self.medium.sessions[one.key] = kept._replace(seq=one.seq, snapshot=one.snapshot)
            return Outcome(Verdict.DONE, one.epoch, one.seq)

        return commit

    patches.wrap(MemoryStore, "_commit_one", make)


def _snapshots_without_outputs(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def snapshot(self: Any, row: int, state: Any) -> Any:
            taken = real(self, row, state)
            kept = {"kept_inputs": taken.kept_inputs[:0], "kept_outputs": taken.kept_outputs[:0]}
            return dataclasses.replace(taken, ack=taken.applied, resets=(), **kept)

        return snapshot

    patches.wrap(Snapshots, "_snapshot", make)


def _tells_durable_when_sent(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def keep(self: Any, now: float) -> None:
            rows = self._ledger.due(now, 512, everything=self._rows.draining)
            real(self, now)
            if len(rows):
                self._rows.confirm(rows, self._rows.table.applied[rows], now)

        return keep

    patches.wrap(Keeper, "commit_due", make)


def _tells_sync_at_once(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def deliver(self: Any, *what: Any) -> None:
            table = self._table
            sync = table.sync.copy()
            table.sync[:] = False
            real(self, *what)
            table.sync[:] = sync

        return deliver

    patches.wrap(Rows, "deliver", make)


def _attach_order_ignored(patches: Patches) -> None:
    def make(real: Real) -> Real:
        return lambda self, row, command, now: real(
            self, row, dataclasses.replace(command, attach_id=0), now
        )

    patches.wrap(Control, "_check_bind", make)


def _binds_at_once(patches: Patches) -> None:
    def when_durable(_self: Any, _row: int, waiter: Any, _now: float) -> None:
        waiter(None)

    def make(real: Real) -> Real:
        def bind(self: Any, command: Any, now: float) -> object:
            with Patches() as inner:
                inner.put(Ledger, "when_durable", when_durable)
                return real(self, command, now)

        return bind

    patches.wrap(Control, "_bind", make)


def _leaves_pending(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def bind(self: Any, command: Any, now: float) -> object:
            with Patches() as inner:
                inner.put(Rows, "drop_pending", lambda _rows, _row: np.zeros(1, np.int64))
                return real(self, command, now)

        return bind

    patches.wrap(Control, "_bind", make)


def _believes_acks(patches: Patches) -> None:
    def acknowledge(self: Any, rows: Any, acks: Any) -> None:
        np.maximum.at(self._table.ack, rows, acks)

    patches.put(Rows, "acknowledge", acknowledge)


def _ignores_generations(patches: Patches) -> None:
    patches.put(Slots, "is_live", lambda self, ref: bool(self.taken[ref.row]))
    patches.put(Slots, "live", lambda self, rows, _: np.asarray(self.taken[rows]))


def _draws_from_a_stream(patches: Patches) -> None:
    rng = np.random.default_rng(7)
    patches.put(sampling, "uniform", lambda seeds, _positions: rng.random(len(seeds)))


def _ends_early(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def init(self: Any, *args: Any, **waits: bool) -> None:
            real(self, *args, **{**waits, "end_waits": False})

        return init

    patches.wrap(TokenOutbox, "__init__", make)


def _tokens_early(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def init(self: Any, *args: Any, **waits: bool) -> None:
            real(self, *args, **{**waits, "tokens_wait": False})

        return init

    patches.wrap(TokenOutbox, "__init__", make)


def _keeps_lapsed(patches: Patches) -> None:
    def let_lapse(self: Any, row: int, error: Any, _now: float) -> None:
        self.revoke(row, error)

    patches.put(Residency, "let_lapse", let_lapse)


def _wakes_binder_first(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def confirm(self: Any, row: int, seq: int) -> None:
            real(self, row, seq)
            self.settle(row)

        return confirm

    patches.wrap(Ledger, "confirm", make)


def _wakes_blindly(patches: Patches) -> None:
    def make(real: Real) -> Real:
        return lambda self, seat, claim, session: real(
            self, seat, claim, dataclasses.replace(session, applied=1 << 60)
        )

    patches.wrap(Seats, "_bound_again", make)


def _loses_late_acks(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def away(self: Any, tag: int, session: Any) -> None:
            for claim in filter(None, self.claim):
                claim.ack = 0
            real(self, tag, session)

        return away

    patches.wrap(Seats, "_away", make)


def _loses_late_replays(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def failures(self: Any, tags: Any, seqs: Any, error: Any) -> None:
            if error.reason != "SESSION_PARKED":
                real(self, tags, seqs, error)

        return failures

    patches.wrap(Seats, "_failures", make)


def _loses_late_closes(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def close(catalog: Any, key: Any, place: Any = None) -> Any:
            return ask(place[0], Close(place[1])) if place else real(catalog, key)

        return close

    patches.wrap(places, "close_session", make)


def _unbinds_any(patches: Patches) -> None:
    def make(real: Real) -> Real:
        return lambda self, command, now: real(self, dataclasses.replace(command, tag=None), now)

    patches.wrap(Control, "_unbind", make)


def _tells_generated_steps(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def confirm(self: Any, rows: Any, seqs: Any, now: float) -> None:
            acks = self._table.ack.copy()
            self._table.ack[rows] = 0
            real(self, rows, seqs, now)
            self._table.ack[:] = acks

        return confirm

    patches.wrap(Rows, "confirm", make)


SERVER_MUTANTS = [
    Mutant(
        "A repeated step runs again",
        "R1",
        _renumbers(lambda first, received: first <= received),
    ),
    Mutant(
        "A step after a gap runs as the next one",
        "R1",
        _renumbers(lambda first, received: first > received + 1),
    ),
    Mutant(
        "Another input for a known step is not noticed",
        "R2",
        lambda p: p.put(Admission, "_check_repeated", lambda *_: None),
    ),
    Mutant("An activation keeps the epoch of the one before", "R3", _keeps_epoch),
    Mutant("A commit of an old epoch counts", "R4", _commits_any_epoch),
    Mutant("A commit of an older step counts", "R4", _commits_any_seq),
    Mutant(
        "Sessions are used without looking at the lease",
        "R5",
        lambda p: p.put(Keeper, "check_lease", lambda _self, _now: None),
    ),
    Mutant("Snapshots lack the outputs that nobody confirmed", "R6", _snapshots_without_outputs),
    Mutant("Durable is told when the snapshot is sent", "R7", _tells_durable_when_sent),
    Mutant("Outputs of a sync session are told at once", "R7", _tells_sync_at_once),
    Mutant("Tokens of a sync session are told at once", "R7", _tokens_early),
    Mutant("A generation's end is told before it is durable", "R7", _ends_early),
    Mutant("An older attach may come back", "R10", _attach_order_ignored),
    Mutant("Tokens are drawn from a running stream of numbers", "R11", _draws_from_a_stream),
    Mutant("The client's epoch is not looked at", "R13", _ignores_floor),
    Mutant("Bound is told while steps are not durable", "barrier", _binds_at_once),
    Mutant("Steps of an older binding run after a newer one", "barrier", _leaves_pending),
    Mutant(
        "An async session runs as far ahead as it likes",
        "K steps",
        lambda p: p.put(Ledger, "limited", lambda self, rows, _now: self._table.pending[rows]),
    ),
    Mutant("An ack beyond what was told counts", "ack", _believes_acks),
    Mutant(
        "Acks that meet a full inbox are lost",
        "ack",
        lambda p: p.put(LateAcks, "add", lambda _self, _command: None),
    ),
    Mutant(
        "A row keeps the state of its last session",
        "isolation",
        lambda p: p.put(Slab, "begin", lambda *_: None),
    ),
    Mutant("A late command reaches the row's next session", "isolation", _ignores_generations),
    Mutant("Outputs are told for steps of generations", "generation", _tells_generated_steps),
    Mutant(
        "A notice before its binding's answer is dropped",
        "binding",
        lambda p: p.put(Seats, "_after_answer", lambda *_: None),
    ),
    Mutant(
        "An older call takes a generation back",
        "generation",
        lambda p: p.put(Generations, "is_newer", lambda *_: False),
    ),
    Mutant(
        "What the store did and never told stays as it is",
        "leases",
        lambda p: p.put(UnfinishedRequests, "failed", lambda _self, _request: None),
    ),
    Mutant("Sessions stay held after their lease has lapsed", "leases", _keeps_lapsed),
    Mutant("A new binding is told before the commit's listeners", "replay", _wakes_binder_first),
    Mutant("A parked session may come back in the past", "R9", _wakes_blindly),
    Mutant("An ack that meets a parking session is lost", "parking", _loses_late_acks),
    Mutant(
        "A session may be pushed out before its first step",
        "parking",
        lambda p: p.put(room, "STAY_S", 0.0),
    ),
    Mutant("A Replay that meets a parking session is lost", "parking", _loses_late_replays),
    Mutant("A close that meets a parking session is lost", "parking", _loses_late_closes),
    Mutant(
        "It is forgotten which sessions were parked",
        "parking",
        lambda p: p.put(table, "_FORMER_PER_SLOT", 0),
    ),
    Mutant("A late Unbind undoes a newer binding", "parking", _unbinds_any),
    Mutant(
        "A close that a server refuses as it stops counts as done",
        "drain",
        lambda p: p.put(places, "_up_to_its_ttl", lambda _error: done(None)),
    ),
]
