"""The journal: nothing that counts is lost by a tear at any byte, and nothing is taken for what it is not."""

from __future__ import annotations

import json
import random
import struct
from contextlib import suppress
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import carousel
from carousel._core import journal as journals
from carousel._core.journal import Journal
from carousel._core.journal_records import MAGIC, Kind, encode
from carousel._core.restoring import journaled_target
from carousel._journal_file import open_journal
from carousel.testing.refusals import Refusal
from carousel_protos.v1 import carousel_pb2 as pb

from .miniature import OUTPUT_BYTES, MiniServer, World, fold, inputs_of, outputs_of


class Memory:
    """A file that is not there."""

    def __init__(self) -> None:
        self.data = b""
        self.full = False
        self.replaced = 0

    def append(self, data: bytes) -> None:
        if self.full:
            raise OSError("no space left")
        self.data += data

    def replace(self, data: bytes) -> None:
        if self.full:
            raise OSError("no space left")
        self.data = data
        self.replaced += 1

    def close(self) -> None:
        pass


def rows(*values: int) -> np.ndarray:
    return np.array(values, "<i4").view(np.uint8).reshape(len(values), 4)


def begun(memory: Memory) -> Journal:
    journal = Journal(memory, memory.data)
    journal.begin("s", "m")
    return journal


def facts(journal: Journal) -> tuple[object, ...]:
    """All that a journal tells."""

    def seqs(parts: object) -> list[tuple[int, bytes, bool]]:
        return [
            (part.first + i, row.tobytes(), part.resets is not None and bool(part.resets[i]))
            for part in parts  # type: ignore[attr-defined]
            for i, row in enumerate(part.rows)
        ]

    return (
        journal.session_id,
        journal.model,
        journal.was_bound,
        journal.epoch,
        journal.attach_id,
        journal.identity,
        journal.tracked,
        journal.execution_class,
        journal.submitted,
        journal.received,
        journal.taken,
        journal.durable,
        journal.closing,
        seqs(journal.parts_in),
        seqs(journal.parts_out),
    )


def played(journal: Journal, moves: list[tuple[str, int]]) -> None:
    """A life of a session, as far as its cursors allow."""
    for verb, count in moves:
        if verb in ("inputs", "resets"):
            resets = (np.arange(count) % 2 == 0).astype(np.uint8) if verb == "resets" else None
            journal.inputs(journal.submitted + 1, rows(*range(count)), resets)
        elif verb == "outputs":
            due = min(count, journal.submitted - journal.received)
            if due:
                journal.outputs(journal.received + 1, rows(*range(due)))
        elif verb == "take":
            journal.take(min(journal.taken + count, journal.received))
        elif verb == "durable":
            journal.durable_at(min(journal.durable + count, journal.received))
        elif verb == "withdraw":
            journal.withdraw(max(journal.submitted - count, journal.received) + 1)
        elif verb == "bound":
            session = pb.Session(epoch=count, durability=pb.DURABILITY_ASYNC, seed=count)
            session.durable, session.execution_class = journal.durable, "cpu"
            session.created_at.FromSeconds(count)
            journal.bound(session, count << 16)
        elif verb == "move":
            journal.move_to(journal.submitted + count)
        else:
            journal.close_session()


VERBS = ("inputs", "resets", "outputs", "take", "durable", "withdraw", "bound", "move", "close")
MOVES = st.lists(st.tuples(st.sampled_from(VERBS), st.integers(1, 5)), max_size=30)


@settings(deadline=None)
@given(moves=MOVES)
@example(moves=[("inputs", 2), ("outputs", 1), ("take", 1)])  # a part of which a half is needed
@example(moves=[("resets", 5), ("outputs", 3)])
@example(moves=[("resets", 5), ("withdraw", 3)])
def test_a_journal_is_read_as_it_was_written_and_as_it_is_compacted(
    moves: list[tuple[str, int]],
) -> None:
    memory = Memory()
    journal = begun(memory)
    played(journal, moves)
    again = Journal(Memory(), memory.data)
    assert facts(again) == facts(journal)
    compacted = Journal(Memory(), journal.encode())
    assert facts(compacted) == facts(journal)
    assert again.unread == again.submitted - again.taken


def test_a_record_of_a_newer_sdk_is_refused_by_name() -> None:
    """It may say that steps count no more: without it the session would go on from a wrong place."""
    memory = Memory()
    begun(memory)
    data = memory.data + encode(cast(Kind, max(Kind) + 1), 5)
    with pytest.raises(carousel.JournalError, match=f"record of kind {max(Kind) + 1}.*update it"):
        Journal(Memory(), data)


def test_every_kind_of_record_is_read() -> None:
    for kind in Kind:
        with suppress(struct.error, json.JSONDecodeError):  # its payload is empty here
            Journal(Memory(), MAGIC + encode(kind, 1))


def test_a_tail_that_is_torn_at_any_byte_is_cut_off() -> None:
    memory = Memory()
    journal = begun(memory)
    ends, known = [len(memory.data)], [facts(journal)]
    moves = [
        ("bound", 1),
        ("inputs", 3),
        ("outputs", 2),
        ("take", 1),
        ("durable", 2),
        ("inputs", 2),
        ("resets", 3),
    ]
    for move in moves:
        played(journal, [move])
        ends.append(len(memory.data))
        known.append(facts(journal))
    for size in range(
        ends[0]
    ):  # which no crash leaves, since the beginning is renamed into its place
        Journal(Memory(), memory.data[:size])
    for size in range(ends[0], len(memory.data) + 1):
        torn = Memory()
        torn.data = memory.data[:size]
        again = Journal(torn, torn.data)
        whole = [number for number, end in enumerate(ends) if end <= size]
        assert facts(again) == known[whole[-1]]
        again.inputs(again.submitted + 1, rows(9))  # and it goes on behind the cut
        assert Journal(Memory(), torn.data).submitted == again.submitted


def test_inputs_without_resets_are_written_as_an_older_sdk_reads_them() -> None:
    memory = Memory()
    journal = begun(memory)
    before = len(memory.data)
    journal.inputs(1, rows(7, 8))
    payload = struct.pack("<I", 2) + rows(7, 8).tobytes()
    assert memory.data[before:] == encode(Kind.INPUTS, 1, payload)
    before = len(memory.data)
    journal.inputs(3, rows(9, 9), np.asarray([0, 1], np.uint8))
    payload = struct.pack("<I", 2) + b"\0\1" + rows(9, 9).tobytes()
    assert memory.data[before:] == encode(Kind.INPUTS_WITH_RESETS, 3, payload)


def test_zeros_behind_the_last_record_are_a_torn_tail_too() -> None:
    memory = Memory()
    played(begun(memory), [("inputs", 3)])
    assert Journal(Memory(), memory.data + bytes(100)).submitted == 3


def test_damage_before_the_end_is_named() -> None:
    memory = Memory()
    journal = begun(memory)
    place = len(memory.data) + 20
    played(journal, [("inputs", 3), ("outputs", 2), ("take", 1)])
    data = bytearray(memory.data)
    data[place] ^= 1
    with pytest.raises(carousel.JournalError, match="damaged at byte"):
        Journal(Memory(), bytes(data))


@pytest.mark.parametrize("data", [b"#!/bin/sh\n", b"CRSLjrn2" + bytes(40), bytes(64)])
def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(data)
    with pytest.raises(carousel.JournalError, match="no journal"):
        open_journal(path)
    assert path.read_bytes() == data


def test_a_full_disk_ends_the_journal_before_anything_is_sent() -> None:
    memory = Memory()
    journal = begun(memory)
    memory.full = True
    journal.take(1)  # not worth an end of its own
    with pytest.raises(carousel.JournalError, match="no space") as caught:
        journal.inputs(1, rows(1))
    assert caught.value.journal is journal
    with pytest.raises(carousel.JournalError):
        journal.outputs(1, rows(1))


def test_garbage_is_compacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "LEAST_COMPACTED_BYTES", 1_000)
    memory = Memory()
    journal = begun(memory)
    for _ in range(200):
        played(journal, [("inputs", 2), ("outputs", 2), ("take", 2)])
        assert len(memory.data) < 1_200
    assert 5 < memory.replaced < 200
    assert facts(Journal(Memory(), memory.data)) == facts(journal)


# -- the file


def test_one_process_at_a_time(tmp_path: Path) -> None:
    first = open_journal(tmp_path / "j")
    first.begin("s", "m")
    with pytest.raises(carousel.JournalError, match="in use"):
        open_journal(tmp_path / "j")
    first.inputs(1, rows(1, 2))
    first.close()
    first.close()
    again = open_journal(tmp_path / "j", fsync=True)
    assert (again.session_id, again.submitted) == ("s", 2)
    again.inputs(3, rows(3))
    again.begin("t", "m")
    with pytest.raises(carousel.JournalError, match="in use"):
        open_journal(tmp_path / "j")
    again.close()
    assert [path.name for path in tmp_path.iterdir()] == ["j"]


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(carousel.JournalError, match="cannot be opened"):
        open_journal(tmp_path / "no" / "folder")
    with pytest.raises(carousel.JournalError, match="cannot be opened"):
        open_journal(tmp_path)


def test_whose_journal_it_is() -> None:
    memory = Memory()
    opens = pb.OpenSessionRequest(session_id="s", model="m")
    assert journaled_target(Journal(memory), opens, named=False) is opens
    journal = Journal(Memory(), memory.data)
    other = pb.OpenSessionRequest(session_id="t", model="m")
    target = journaled_target(journal, other, named=False)
    assert isinstance(target, pb.OpenSessionRequest)  # it was never bound, so it may not be there
    assert target.session_id == "s"
    played(journal, [("bound", 1)])
    assert journaled_target(journal, other, named=False) == "s"
    for wrong, named in ((other, True), ("t", True), (pb.OpenSessionRequest(model="n"), False)):
        with pytest.raises(carousel.JournalError, match="the journal is that of"):
            journaled_target(journal, wrong, named=named)
    played(journal, [("close", 1)])
    assert journaled_target(journal, other, named=True) is other
    assert (journal.session_id, journal.was_bound) == ("t", False)


# -- clients that die and come back


class Application:
    """Feeds 1, 2, 3, … to one session and keeps what it was told, over the lives of its client."""

    def __init__(self, server: MiniServer) -> None:
        self.server = server
        self.memory = Memory()
        self.told: dict[int, list[int]] = {}
        self.told_twice: list[int] = []
        self.handed = 0

    def start(self, seed: int) -> None:
        self.world = World(self.server, seed=seed)
        self.world.deliver()
        journal = Journal(self.memory, self.memory.data)
        opens = pb.OpenSessionRequest(session_id="s", model="m")
        target = journaled_target(journal, opens, named=True)
        self.first_unread = journal.taken + 1
        ticket = self.world.bind(target, journal)
        assert ticket.error is None
        self.lane = ticket.lane
        self.replay, effects = self.world.core.replay(self.lane, OUTPUT_BYTES)
        self.world.do(effects)
        self.tickets = [] if self.replay is None else [self.replay]

    def die(self, torn_bytes: int, *, server_too: bool) -> None:
        """A write that was under way leaves some of its bytes."""
        if server_too:
            self.server.crash()
        self.world.break_()
        self.memory.data += encode(Kind.TAKEN, 1 << 40)[:torn_bytes]
        self.told_twice.clear()

    def step(self, count: int) -> None:
        self.world.core.taken(self.lane, self.handed)
        first = self.lane.cursors.next_seq
        self.tickets.append(self.world.submit(self.lane, list(range(first, first + count))))

    def collect(self) -> None:
        """Takes the outputs of tickets that have ended, in order."""
        while self.tickets and self.tickets[0] in self.world.ended:
            ticket = self.tickets.pop(0)
            assert ticket.error is None
            self.world.core.taken(self.lane, self.handed)
            for seq, value in outputs_of(ticket):
                if seq in self.told:
                    assert self.told[seq] == [seq, value]
                    self.told_twice.append(seq)
                self.told[seq] = [seq, value]
                self.handed = seq

    def settle(self) -> None:
        while self.tickets:
            self.world.server.commit()
            self.world.deliver()
            self.collect()


@pytest.mark.parametrize("seed", range(150))
def test_no_input_is_lost_or_applied_twice_whoever_dies(seed: int) -> None:
    rng = random.Random(seed)
    server = MiniServer(rng.choice([pb.DURABILITY_ASYNC, pb.DURABILITY_SYNC]))
    app = Application(server)
    app.start(seed)
    for _ in range(rng.randint(5, 60)):
        move = rng.choice(
            ["step", "step", "deliver", "deliver", "commit", "collect", "break", "die"]
        )
        if move == "step":
            app.step(rng.randint(1, 5))
        elif move == "deliver":
            app.world.deliver(rng.randint(1, 6))
        elif move == "commit":
            server.commit()
        elif move == "collect":
            app.collect()
        elif move == "break":
            (app.world.crash if rng.random() < 0.5 else app.world.break_)()
            app.world.resume()
        else:
            if rng.random() < 0.5:
                server.crash()
            app.world.break_()
            torn = rng.randint(0, 30) if rng.random() < 0.3 else 0
            whole = Journal(Memory(), app.memory.data)
            cut = Journal(Memory(), app.memory.data[: len(app.memory.data) - torn])
            if facts(cut) == facts(
                whole
            ):  # else more was torn than one write that nobody relied on
                app.memory.data = app.memory.data[: len(app.memory.data) - torn]
            app.told_twice.clear()
            confirmed = max(whole.taken, 0)
            app.start(seed)
            app.handed = max(app.handed, confirmed)
            assert app.first_unread == confirmed + 1
    app.settle()
    last = app.lane.cursors.received
    assert list(app.told) and sorted(app.told) == list(range(1, last + 1)) if last else True
    assert [app.told[seq] for seq in sorted(app.told)] == fold(list(range(1, last + 1)))
    assert inputs_of(server.sessions["s"]) == list(range(1, last + 1))


def test_unread_outputs_are_told_again_and_no_others() -> None:
    server = MiniServer()
    app = Application(server)
    app.start(0)
    for _ in range(3):
        app.step(2)
        app.world.deliver()
        app.collect()
    app.step(2)  # confirms 1 … 6; 7 and 8 are sent
    app.world.break_()
    app.start(1)
    assert app.first_unread == 7
    assert app.replay is not None
    assert app.replay.steps == 2
    app.settle()
    assert app.told_twice == []
    app.world.break_()  # they were told, and nothing was asked for after that
    app.start(2)
    assert app.replay is not None
    assert [seq for seq, _ in outputs_of(app.replay)] == [7, 8]


def test_refused_inputs_are_not_in_the_journal_any_more() -> None:
    server = MiniServer()
    app = Application(server)
    app.start(0)
    server.refuse_steps.append(Refusal("INPUT_NOT_FINITE"))
    app.step(2)
    app.world.deliver()
    assert isinstance(app.tickets[0].error, carousel.InputNotFiniteError)
    assert Journal(Memory(), app.memory.data).submitted == 0
    app.tickets.clear()
    app.world.deliver()
    app.step(2)
    app.settle()
    assert sorted(app.told) == [1, 2]


def test_an_input_of_an_earlier_process_that_is_refused_ends_the_session_here() -> None:
    server = MiniServer()
    app = Application(server)
    app.start(0)
    app.world.stream = None  # the server never gets it
    app.world.core._bindings.lanes[1].journal.inputs(1, rows(1))  # type: ignore[union-attr]
    server.refuse_steps.append(Refusal("INPUT_NOT_FINITE"))
    app.world.break_()
    with pytest.raises(carousel.InputNotFiniteError):
        app.start(1)
    assert Journal(Memory(), app.memory.data).submitted == 0


def test_a_full_disk_ends_that_session_and_no_other() -> None:
    world = World()
    memory = Memory()
    journal = Journal(memory)
    opens = pb.OpenSessionRequest(session_id="s", model="m")
    lane = world.bind(journaled_target(journal, opens, named=True), journal).lane
    other = world.open("other")
    memory.full = True
    ticket = world.submit([other, lane], [1, 2], [3, 4])
    world.deliver()
    assert isinstance(lane.error, carousel.JournalError)
    assert list(ticket.errors) == [1]
    assert outputs_of(ticket, 0) == fold([1, 2])
    assert world.server.sessions["s"].applied == 0


def test_a_generation_moves_the_journal_along() -> None:
    server = MiniServer()
    app = Application(server)
    app.start(0)
    app.step(2)
    app.settle()
    app.world.core.generation_begins(app.lane)
    session = server.sessions["s"]
    session.applied = session.ack = 20
    session.commit()
    app.world.do(app.world.core.generated(app.lane, 20))
    app.world.break_()
    app.start(1)
    assert app.lane.error is None
    assert app.lane.cursors.next_seq == 21
    assert app.replay is None
