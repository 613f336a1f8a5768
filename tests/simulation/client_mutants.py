"""Clients with one rule taken out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from carousel._core import answers, steps
from carousel._core.attach import AttachCore
from carousel._core.cursors import Cursors
from carousel._core.journal import Journal
from carousel._core.lane import Intake, Lane
from carousel._core.link import Link
from carousel._error_bases import CarouselError, ProtocolViolationError
from carousel._errors import DataLossError
from carousel_protos.v1 import carousel_pb2 as pb

from .mutants import Mutant, Patches

Real = Callable[..., Any]


def _keeps_no_durable(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def take_facts(self: Any, session: pb.Session) -> None:
            before, rebound = self.cursors.durable, self.facts.bound
            real(self, session)
            if rebound:
                self.cursors.durable = before

        return take_facts

    patches.wrap(Lane, "take_facts", make)


def _asks_nothing(patches: Patches) -> None:
    def ask_nothing(link: Link, lane: Lane) -> None:
        lane.intake = Intake.REPLAYING
        link.send(acks=pb.Acks())

    patches.put(answers, "ask_again", ask_nothing)


def _overlooks_loss(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def obstacle(lane: Any, session: pb.Session) -> Any:
            error = real(lane, session)
            return None if isinstance(error, DataLossError) else error

        return obstacle

    patches.wrap(answers, "obstacle", make)


def _waits_for_generated(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def generated(self: Any, lane: Any, applied: int | None) -> Any:
            before = lane.cursors.durable
            effects = real(self, lane, applied)
            lane.cursors.durable = before
            return effects

        return generated

    patches.wrap(AttachCore, "generated", make)


def _ends_by_a_passing_refusal(patches: Patches) -> None:
    def check(error: CarouselError) -> None:
        raise ProtocolViolationError(f"the server could not read a message: {error.message}")

    patches.put(answers, "_check_names_none", check)


def _takes_at_once(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def outputs(self: Any, first: int, rows: Any) -> None:
            real(self, first, rows)
            self.take(first + len(rows) - 1)

        return outputs

    patches.wrap(Journal, "outputs", make)


CLIENT_MUTANTS = [
    Mutant("A client keeps its old durable through a Bound", "R8", _keeps_no_durable),
    Mutant(
        "Steps that the server lacks are not sent again",
        "R8",
        lambda p: p.put(answers, "owed_blocks", lambda _lane, _applied: []),
    ),
    Mutant("Outputs that were missed are not asked for", "R8", _asks_nothing),
    Mutant(
        "Inputs are forgotten when the output has come",
        "R8",
        lambda p: p.put(Cursors, "forgettable", property(lambda cursors: cursors.received)),
    ),
    Mutant("A store that went backwards is gone on with", "R9", _overlooks_loss),
    Mutant(
        "Outputs that come again are not compared",
        "R12",
        lambda p: p.put(steps, "compare", lambda _lane, _first, rows: (len(rows), None)),
    ),
    Mutant(
        "Outputs are confirmed that this activation never told",
        "ack",
        lambda p: p.put(
            Cursors, "ackable", property(lambda cursors: cursors.received - cursors.unread)
        ),
    ),
    Mutant(
        "A passing refusal that names no session ends the client",
        "drain",
        _ends_by_a_passing_refusal,
    ),
    Mutant("A generation's steps wait for a Durable notice", "generation", _waits_for_generated),
    Mutant(
        "Inputs are sent that are not in the journal",
        "journal",
        lambda p: p.put(Journal, "inputs", lambda *_: None),
    ),
    Mutant(
        "Outputs are told that are not in the journal",
        "journal",
        lambda p: p.put(Journal, "outputs", lambda *_: None),
    ),
    Mutant("An output counts as seen as soon as it has come", "journal", _takes_at_once),
]
