"""Servers and clients that lose a reset, or do one twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from carousel._core import answers
from carousel._core.journal import Journal
from carousel._core.lane import Lane
from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.engine.admission import Admission
from carousel_server.engine.runner import Runner
from carousel_server.engine.stepping import Stepping
from carousel_server.rows.rows import Rows
from carousel_server.rows.snapshots import Snapshots
from carousel_server.rows.window import Window

from .mutants import Mutant, Patches

Real = Callable[..., Any]


def _resets_again(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def check(self: Any, new: Any, row: int, first: int, last: int) -> None:
            real(self, new, row, first, last)
            ran = max(int(self._table.applied[row]) - first + 1, 0)
            if new.resets is not None and new.resets[0, :ran].any():
                self._rows.slab.begin(row)

        return check

    patches.wrap(Admission, "_check_repeated", make)


def _overlooks_another_reset(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def check(self: Any, new: Any, row: int, first: int, last: int) -> None:
            known = self._window.resets[self._window.at(new.rows, new.first_seqs, new.steps)]
            real(self, dataclasses.replace(new, resets=known), row, first, last)

        return check

    patches.wrap(Admission, "_check_repeated", make)


def _overlooks_resets_in_chunks(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def select(self: Any, now: float) -> Any:
            with Patches() as inner:
                inner.put(Window, "resets_in", lambda *_: None)
                return real(self, now)

        return select

    patches.wrap(Stepping, "select", make)


def _snapshots_without_resets(patches: Patches) -> None:
    def make(real: Real) -> Real:
        return lambda self, row, state: dataclasses.replace(real(self, row, state), resets=())

    patches.wrap(Snapshots, "_snapshot", make)


def _resets_before_the_batch(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def run(self: Any, batch: Any, *what: Any) -> Any:
            if (reads := what[-1]) is not None:
                for row in batch.rows[reads != batch.rows].tolist():
                    self._slab.begin(row)
            return real(self, batch, *what)

        return run

    patches.wrap(Runner, "run", make)


def _generates_without_resets(patches: Patches) -> None:
    def make(real: Real) -> Real:
        return lambda self, row, *, reset: real(self, row, reset=False)

    patches.wrap(Rows, "generate", make)


def _sends_again_without_resets(patches: Patches) -> None:
    def make(real: Real) -> Real:
        def owed_blocks(lane: Lane, applied: int) -> list[pb.Block]:
            blocks: list[pb.Block] = real(lane, applied)
            for block in blocks:
                block.ClearField("resets")
            return blocks

        return owed_blocks

    patches.wrap(answers, "owed_blocks", make)


def _journals_without_resets(patches: Patches) -> None:
    def make(real: Real) -> Real:
        return lambda self, first, rows, _resets=None: real(self, first, rows)

    patches.wrap(Journal, "inputs", make)


RESET_MUTANTS = [
    Mutant("A repeated reset is done again", "reset", _resets_again),
    Mutant("Another reset of a known step is not noticed", "reset", _overlooks_another_reset),
    Mutant("A reset inside a chunk is ignored", "reset", _overlooks_resets_in_chunks),
    Mutant("Snapshots lack the resets of their steps", "reset", _snapshots_without_resets),
    Mutant("A batch that fails has reset its sessions", "reset", _resets_before_the_batch),
    Mutant("A generation does not reset its session", "reset", _generates_without_resets),
    Mutant("Steps are sent again without their resets", "reset", _sends_again_without_resets),
    Mutant("Inputs are in the journal without their resets", "reset", _journals_without_resets),
]
