"""The oracle: what must be true whatever happens.

It sees what applications hand in, what goes over every stream, and what the store holds, and knows one
thing that no part of the system knows: the whole history of each session.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from carousel._core.faults import error_of
from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.store import Commit, Holding, Outcome, Record, SessionKey, Verdict
from carousel_server.core.types import Durability
from carousel_server.rows.snapshot import decode
from carousel_server.store.memory import MemoryMedium

from .histories import History, Writer
from .model import row_of

if TYPE_CHECKING:
    from .server import Process, ServerEnd
    from .world import World

TENANT = "t"

_SLACK_S = 0.02
"""The store counts a session's idle time from a little before its last use is known here."""

_UNSURE_S = 0.5
"""So long after a fault of the store, what was asked during the fault may not have happened."""

_TICKS_PER_CHECK = 32
"""Which of them are looked at closely depends on the seed."""


class Oracle:
    """Judges one schedule. `failures` is empty as long as all is well.

    Attributes:
        drift: by how much the outputs of servers that were started later differ, see `model.FoldModel`.
        stumbled: batches have failed, for no fault of a step.
        fleet: replicas come and go.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.failures: list[str] = []
        self.histories: dict[str, History] = {}
        self.drift = 0
        self.stumbled = False
        self.fleet = False
        # The medium has become older, and so have the leases in it.
        self._leases_forgotten = False
        self.told = 0
        # How often each session was handed over to another replica, as clients were told.
        self.moves: Counter[str] = Counter()
        self._ticks = world.rng.randrange(_TICKS_PER_CHECK)

    def fail(self, text: str) -> None:
        """Something is wrong. Not raised: code under test catches exceptions."""
        self.world.note("ORACLE", text)
        self.failures.append(f"{self.world.now_s:.4f}: {text}")

    def open(self, session_id: str, durability: Durability, idle_ttl_s: float) -> History:
        """A session that the schedule will open."""
        history = self.histories[session_id] = History(session_id, durability, idle_ttl_s)
        return history

    # -- the store

    def acquired(self, record: Record) -> None:
        """The store has given a session to a replica."""
        history = self.histories[record.key.id]
        if record.epoch <= history.epoch:
            if not history.rolled_back:
                self.fail(f"R3: epoch {record.epoch} of {history.id} was given before")
            # The store cannot tell whoever had the session before its roll-back from who has it now.
            history.muddled = True
        history.epoch = max(history.epoch, record.epoch)
        history.known_attach_id = history.kept_attach_id
        if record.created:
            history.expired |= self._idle_for_too_long(history)
            history.begins()
        if history.rolled_back and record.seq > history.stored:
            # It was closed and opened anew, and the store has its former life again.
            history.muddled = True
        history.used_s = record.last_used_unix_s
        self.world.note("store", "acquired", history.id, f"epoch {record.epoch} seq {record.seq}")

    def committed(self, commits: Sequence[Commit], outcomes: Sequence[Outcome]) -> None:
        """The store has answered commits."""
        for commit, outcome in zip(commits, outcomes, strict=True):
            self._committed(commit, outcome)

    def _committed(self, commit: Commit, outcome: Outcome) -> None:
        history, verdict = self.histories[commit.key.id], outcome.verdict
        what = f"epoch {commit.epoch} seq {commit.seq}: {verdict.name}"
        self.world.note("store", "commit", history.id, what)
        if verdict is not Verdict.DONE:
            return
        if commit.seq < history.stored and not history.rolled_back:
            self.fail(f"R4: a commit of step {commit.seq} counted after one of {history.stored}")
        if commit.epoch < history.epoch and not history.rolled_back:
            self.fail(f"R4: a commit of epoch {commit.epoch} counted in epoch {history.epoch}")
        history.stored = max(history.stored, commit.seq)
        if history.contested:
            history.kept_attach_id = decode(commit.snapshot).attach_id
        history.used_s = commit.last_used_unix_s

    def released(self, held: Sequence[Holding]) -> None:
        """Sessions were given back."""
        for key, _epoch, last_used_unix_s, _whole in held:
            self.histories[key.id].used_s = last_used_unix_s

    def rolled_back(self, now: MemoryMedium, then: MemoryMedium) -> None:
        """The medium becomes as it was."""
        self.world.note("store", "is rolled back")
        self._leases_forgotten = True
        for history in self.histories.values():
            key = SessionKey(TENANT, history.id)
            before = now.sessions.get(key), now.ended.get(key)
            if before != (then.sessions.get(key), then.ended.get(key)):
                history.rolled_back = True

    # -- the engines

    def ticked(self, process: Process) -> None:
        """A tick is over."""
        engine = process.engine
        self._ticks += 1
        if self._ticks % _TICKS_PER_CHECK == 0:
            self.check_integrity(process)
        if (engine._rows.table.ack > engine._rows.table.applied).any():
            self.fail("an output was acknowledged before it existed")
        if engine._broken is not None:
            self.fail(f"the engine broke: {engine._broken}")
        if engine._rows.ledger.tracked:
            if (ahead := engine._rows.ledger.most_ahead()) > engine._context.limits.durable_steps:
                self.fail(f"a session is {ahead} steps ahead of the store")
            self._check_leases(process)

    def check_integrity(self, process: Process) -> None:
        """Looks at all that an engine holds: now and then, as it costs more than a tick, and at the end."""
        try:
            process.engine.check_integrity()
        except AssertionError as error:
            self.fail(f"integrity: {error}")

    def _check_leases(self, process: Process) -> None:
        """Nothing of the store's may have run without a lease (R5)."""
        engine, before = process.engine, process.applied
        rows = engine._rows.table.tracked.nonzero()[0].tolist()
        process.applied = now = {
            engine._rows.ref(r): int(engine._rows.table.applied[r]) for r in rows
        }
        ran = any(applied > before.get(ref, applied) for ref, applied in now.items())
        if ran and not self._leases_forgotten and self.world.wall() > process.lease():
            self.fail(f"R5: {process.life.name} ran steps without a lease")

    # -- the streams

    def asked(self, end: ServerEnd, request: pb.AttachRequest) -> None:
        """A server takes a request of a client."""
        kind = request.WhichOneof("event")
        if kind == "replay":
            end.unasked.pop(request.replay.handle, None)
        elif kind == "block":
            for handle, first in zip(request.block.handles, request.block.first_seqs, strict=True):
                if first <= end.unasked.get(handle, 0):
                    del end.unasked[handle]
        elif kind == "unbind" and request.unbind.close:
            handle = request.unbind.handle
            if handle in end.sessions:
                end.closing[handle] = self._of(end, handle).epoch, self.world.now_s
        elif kind == "bind":
            bind = request.bind
            end.sessions[bind.handle] = bind.session_id or bind.open.session_id
            end.attach_ids[bind.handle] = bind.attach_id
            end.epochs[bind.handle] = bind.epoch_floor
            end.take_overs.pop(bind.handle, None)
            if bind.take_over:
                end.take_overs[bind.handle] = self.world.now_s
            self._of(end, bind.handle).asked(end.writers[end.sessions[bind.handle]], bind.attach_id)

    def said(self, end: ServerEnd, reply: pb.AttachResponse) -> None:
        """A server says something to a client."""
        kind = reply.WhichOneof("event")
        if kind == "outputs":
            self._said_outputs(end, reply.outputs)
        elif kind == "durable":
            self._said_durable(end, reply.durable)
        elif kind == "unbound" and not reply.unbound.HasField("status"):
            if (asked := end.closing.pop(reply.unbound.handle, None)) is not None:
                self._closed(end, self._of(end, reply.unbound.handle), *asked)
        elif kind == "failure":
            self._refused(end, reply.failure)
        elif kind == "bound":
            self._bound(end, reply.bound)
        elif kind == "moved":
            self._moved(end, reply.moved)

    def _said_outputs(self, end: ServerEnd, outputs: pb.BlockResult) -> None:
        for handle, first in zip(outputs.handles, outputs.first_seqs, strict=True):
            history, last = self._of(end, handle), first + outputs.steps - 1
            self._check_order(history, end, handle, history.epoch)
            if first <= end.unasked.get(handle, 0):
                self.fail(f"output {first} of {history.id} was told, and nobody asked for it")
            end.told[handle] = max(end.told.get(handle, 0), last)
            if history.durability is Durability.SYNC and last > history.stored:
                self.fail(f"R7: output {last} of sync {history.id} told before it was stored")

    def _said_durable(self, end: ServerEnd, durable: pb.Durable) -> None:
        for handle, seq in zip(durable.handles, durable.durables, strict=True):
            history = self._of(end, handle)
            if seq > history.stored:
                what = f"durable {seq} of {history.id} told"
                self.fail(f"R7: {what}, but {history.stored} is stored")
            end.durable[handle] = seq

    def _closed(self, end: ServerEnd, history: History, epoch: int, asked_s: float) -> None:
        """What was closed is gone, unless another replica may have it, or the store did not answer.

        One that was fetched to be closed, and found no slot, is left to its TTL.
        """
        storage, process = end.process.storage, end.process
        kept = storage.stored(SessionKey(TENANT, history.id))
        unsure = storage.is_unsure or storage.unsure_until_s > asked_s - _SLACK_S
        lapsed = process.store.lease_lost or self._leases_forgotten or history.rolled_back
        if kept is None or kept.epoch != epoch or kept.owner.name not in ("", process.life.name):
            return
        if not (unsure or lapsed):
            self.fail(f"{history.id} was said to be closed, and is in the store as it was")

    def _refused(self, end: ServerEnd, failure: pb.Failure) -> None:
        """No server may forget on a stream what it has told to be durable there (R9)."""
        error = error_of(failure.status)
        for handle in failure.handles or (failure.handle,):
            durable = end.durable.get(handle, 0)
            if error.reason == "SEQUENCE_GAP" and int(error.metadata["expected"]) <= durable:
                what = f"a gap behind step {int(error.metadata['expected']) - 1} was told"
                self.fail(f"R9: {what} of {end.sessions[handle]}, where {durable} was durable")
            if error.reason == "SESSION_HELD":
                self._not_taken_over(end, handle)

    def _not_taken_over(self, end: ServerEnd, handle: int) -> None:
        """A holder that is asked to give a session up may not keep it. If it is gone, that takes a while."""
        asked_s, storage = end.take_overs.pop(handle, None), end.process.storage
        if asked_s is None or storage.is_unsure or storage.unsure_until_s > asked_s - _UNSURE_S:
            return
        if self._leases_forgotten:
            return  # the store names a holder that has long let go of it
        if self.world.now_s - asked_s < end.process.hand_over_s:
            self.fail(f"R18: {end.sessions[handle]} was refused at once, and not taken over")

    def _moved(self, end: ServerEnd, moved: pb.Moved) -> None:
        """A session that was handed over is in the store, and is released there (R14, R15)."""
        history, storage = self._of(end, moved.handle), end.process.storage
        told = end.told.pop(moved.handle, 0)
        self.moves[history.id] += 1
        if storage.is_unsure or storage.unsure_until_s > self.world.now_s - _UNSURE_S:
            return  # the store may not have answered
        if history.rolled_back or history.muddled:
            return
        if told > history.stored:
            self.fail(
                f"R14: {history.id} was handed over, and step {told} that was told is not stored"
            )
        stored = storage.stored(SessionKey(TENANT, history.id))
        epoch = end.bound_epochs.get(moved.handle, 0)
        if (
            stored is not None
            and stored.owner.name == end.process.life.name
            and stored.epoch == epoch
        ):
            self.fail(f"R15: Moved of {history.id} was told before the store had released it")

    def said_tokens(self, session_id: str, message: pb.GenerateResponse) -> None:
        """A server tells tokens of a generation, or its end."""
        history = self.histories[session_id]
        last = max((token.seq for token in message.tokens), default=0)
        if history.durability is Durability.SYNC and last > history.stored:
            self.fail(f"R7: token {last} of sync {session_id} told before it was stored")
        if history.tracked and message.usage.applied > history.stored:
            self.fail(f"R7: a generation in {session_id} was told to be over before it was stored")

    def _bound(self, end: ServerEnd, bound: pb.Bound) -> None:
        history, session = self._of(end, bound.handle), bound.session
        writer = end.writers[history.id]
        self._check_order(history, end, bound.handle, session.epoch)
        if history.muddled:
            return
        applied, where = session.applied, f"{history.id} bound at {session.applied}"
        self.world.note(
            end.life.name,
            f"bound {history.id} to {writer.name}: applied {applied} ack {session.ack}",
            f"durable {session.durable} epoch {session.epoch}",
        )
        if history.tracked and not history.generating:
            if session.durable != applied:
                self.fail(f"barrier: {where}, durable {session.durable}")
            if applied > history.stored:
                self.fail(f"R7: {where}, but {history.stored} is stored")
        if history.tracked and applied > len(history.tokens) and not history.generating:
            self.fail(f"{where}, but nobody sent so many steps")
        if session.epoch < end.epochs[bound.handle]:
            self.fail(
                f"R13: {where} in epoch {session.epoch}, but its client has seen a higher one"
            )
        end.told.pop(bound.handle, None)
        end.bound_epochs[bound.handle] = session.epoch
        end.unasked[bound.handle] = applied
        end.durable[bound.handle] = session.durable
        if not history.tracked and applied and history.bound_by[1] not in (None, end.process):
            # Without a store, each server has a session of that name; this one's is an older one.
            history.muddled = True
            return
        attach_id, now_s = end.attach_ids[bound.handle], self.world.now_s
        older = attach_id < history.bound_by[0]
        if older and (now_s == history.bound_by[3] or session.epoch < history.epoch):
            # The newer one came behind it and was only checked first, or a server that was frozen answers
            # an older stream. The store refuses what that server commits in its old epoch.
            return
        history.bound_by = attach_id, end.process, history.epoch, now_s
        if history.owner is not writer:
            history.cut(applied)
            history.owner = writer

    def _check_order(self, history: History, end: ServerEnd, handle: int, told_epoch: int) -> None:
        """An older attach may not have the session after a newer one (R10), except of a zombie."""
        newest, process, epoch, at_s = history.bound_by
        if end.attach_ids[handle] >= newest or self.world.now_s == at_s:
            return  # streams are looked at one after the other, so what is simultaneous has no order
        later = told_epoch > epoch
        if history.rolled_back or (later and history.known_attach_id < newest):
            # The server died before the store had the newer attach, or the store forgot it.
            history.muddled = True
        elif end.process is process or later:
            self.fail(f"R10: an older attach has {history.id} again")

    def _of(self, end: ServerEnd, handle: int) -> History:
        return self.histories[end.sessions[handle]]

    # -- the applications

    def sent(self, writer: Writer, first_seq: int, tokens: Iterable[int]) -> None:
        """A client sends inputs, or sends them again."""
        history = writer.session
        if history.owner is not writer or history.muddled:
            return  # superseded, and about to hear so
        for seq, token in enumerate(tokens, first_seq):
            if not history.feed(seq, token):
                known = len(history.tokens)
                self.fail(f"{writer.name} sends step {seq}, but {known} is the last known")
                return

    def heard(self, writer: Writer, first_seq: int, rows: Sequence[bytes]) -> None:
        """Outputs have come over a client's stream; some perhaps again, and different (R12)."""
        for seq, row in enumerate(rows, first_seq):
            if writer.rows.get(seq, row) != row:
                writer.must_diverge = True

    def received(self, writer: Writer, first_seq: int, tokens: Sequence[int], rows: bytes) -> None:
        """Outputs have reached an application: rows of its tokens, in order."""
        history, width = writer.session, len(rows) // len(tokens)
        if history.muddled:
            return
        for i, token in enumerate(tokens):
            seq, row = first_seq + i, rows[i * width : (i + 1) * width]
            self.told += 1
            if seq != writer.told + 1:
                self.fail(f"{writer.name} got output {seq} after {writer.told}")
            writer.told = max(writer.told, seq)
            if self.drift:
                writer.rows[seq] = row
            if history.owner is not writer:
                continue  # what came just before another one took the session
            if seq > len(history.tokens) or history.tokens[seq - 1] != token:
                self.fail(f"{writer.name} got output {seq} for another input")
            elif row not in (row_of(history.states[seq]), row_of(history.states[seq], self.drift)):
                self.fail(f"{writer.name} got a wrong output {seq}")

    def refused(self, writer: Writer, reason: str) -> None:
        """An application was told to hand its steps in again."""
        if reason == "WINDOW_EXCEEDED":
            self.fail(f"{writer.name} got {reason}: its client sent more than the window allows")

    def drawn(self, writer: Writer, seq: int, token: int) -> None:
        """A token has reached an application: drawn from the output of step `seq`, and fed next."""
        self.sent(writer, seq + 1, [token])
        writer.told = max(writer.told, seq)
        self.told += 1

    def generated(self, writer: Writer, applied: int) -> None:
        """A generation has ended well. Its last token was not fed."""
        history = writer.session
        history.generating = False
        if history.owner is writer and not history.muddled:
            if applied + 1 != len(history.tokens):
                known = len(history.tokens) - 1
                self.fail(f"{writer.name} was told {known} steps, and {applied} at the end")
            history.cut(applied)

    def ended(self, writer: Writer, reason: str, text: str) -> None:
        """An application was told that it cannot go on."""
        if reason == "REPLAY_DIVERGED" and self.drift:
            writer.must_diverge = False
        elif not writer.session.muddled and reason not in self._excuses(writer):
            self.fail(f"{writer.name} got {reason}: {text}")

    def _idle_for_too_long(self, history: History) -> bool:
        return self.world.wall() > history.used_s + history.idle_ttl_s - _SLACK_S

    def _excuses(self, writer: Writer) -> set[str]:
        """Reasons for which an application may be told by now that it cannot go on."""
        history, excuses = writer.session, set[str]()
        if self.stumbled:
            excuses |= {"STEP_FAILED"}
        if history.rolled_back:
            excuses |= {"DATA_LOSS", "SESSION_NOT_FOUND", "SESSION_EXPIRED", "SESSION_CLOSED"}
            if history.generating:
                excuses |= {"SEQUENCE_GAP", "SEQUENCE_REUSED", "OUTPUT_FORGOTTEN"}
        if not history.tracked:
            excuses |= {"DATA_LOSS", "SESSION_NOT_FOUND"}
            if self.fleet:  # its replica may be gone for good
                excuses |= {"CONNECTION_LOST"}
        if history.newest is not writer:
            excuses |= {"SUPERSEDED", "SESSION_BUSY"}
        if history.expired or self._idle_for_too_long(history):
            excuses |= {"SESSION_EXPIRED"}
        if (
            history.closed_s is not None or history.owner is None
        ):  # closed, as nobody got to have it
            excuses |= {"SESSION_CLOSED"}
        return excuses
