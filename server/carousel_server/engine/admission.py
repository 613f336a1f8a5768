"""The door for client-fed steps: takes what is next in sequence, answers everything else.

Works on arrays: the blocks of all streams that came since the last tick are joined, checked and written
into the window together. Only rows that are not simply the next steps of their session are looked at
one by one.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import numpy as np

from carousel_server.core.context import Context
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import Ack, StepBlock
from carousel_server.core.sinks import StepSink
from carousel_server.core.types import Int64s, SessionRef
from carousel_server.rows.row_set import alike
from carousel_server.rows.rows import Rows
from carousel_server.rows.window import invalid_rows, invalid_value

from .arrivals import NO_ACK, Arrivals, join
from .rounds import Rounds


class Admission:
    """Rules R1 and R2 of the protocol, and the window. Used on the engine's thread only."""

    def __init__(self, context: Context, rows: Rows) -> None:
        self._model = context.model
        self._retry_after_s = context.limits.retry_after_s
        self._rows = rows
        self._table = rows.table
        self._window = rows.window
        # Blocks that will be admitted together, with their instants of arrival.
        self.blocks: list[tuple[StepBlock, float]] = []
        # Rows of the first `_noted` blocks, which an ack was compared with.
        self._touched: set[int] = set()
        self._noted = 0
        # Steps behind a missing one that are refused and not told yet: the sink's number, tag, expected seq
        # and seq of each. They are told before what is refused after them. Under overload there are many.
        # The more of them come at once, the fewer calls tell of them.
        self._gaps: list[tuple[Int64s, Int64s, Int64s, Int64s]] = []

    def concerns(self, ack: Ack) -> bool:
        """True if an Ack names a session of these blocks."""
        for block, _ in self.blocks[self._noted :]:
            self._touched.update(int(row) for row, _ in block.refs)
        self._noted = len(self.blocks)
        return any(ref.row in self._touched for ref in ack.refs)

    def admit(self, now: float) -> None:
        """Takes the blocks in order of arrival; every row of each is accepted or answered."""
        if not self.blocks:
            return
        blocks, came = zip(*self.blocks, strict=True)
        start = 0
        for _, equal in groupby([block.steps for block in blocks]):
            some = slice(start, start := start + len(list(equal)))
            joined = join(blocks[some], came[some], self._model, self._rows)
            if len(joined.senders) == 1 or not joined.repeats():
                self._admit_once(joined, now)
            else:
                self._admit_rounds(joined, now)
        if self._gaps:
            self._tell_gaps()
        self.blocks = []
        self._touched.clear()
        self._noted = 0

    # -- many rows at a time

    def _admit_rounds(self, joined: Arrivals, now: float) -> None:
        """A client that pipelines may have several blocks of one session here: one round each."""
        streaming = joined.ours & ~self._table.generating[joined.rows]
        rounds = Rounds(joined.rows, np.where(streaming, joined.first_seqs, 0))
        while True:
            self._refuse_behind(joined, rounds)
            if not len(chosen := rounds.take()):
                return
            self._admit_once(joined.where(chosen), now)

    def _admit_once(self, new: Arrivals, now: float) -> None:
        """One round: no row twice."""
        self._acknowledge(new, new.ours)
        simple = self._simple(new, now)
        refused = self._refuse_over_quota(new, simple) if self._rows.step_quota else None
        if np.count_nonzero(simple) == len(simple):  # nearly always
            self._accept(new, now)
            return
        self._accept(new.where(simple), now)
        odd = ~simple & ~self._refuse_gaps(new, new.ours & ~self._table.generating[new.rows])
        if refused is not None:
            odd &= ~refused
        if self._gaps and odd.any():
            self._tell_gaps()
        for i in np.flatnonzero(odd):
            self._admit_odd(new.where(np.asarray([i])), now)

    def _simple(self, new: Arrivals, now: float) -> np.ndarray:
        """Which rows are the next steps of their sessions, and can be accepted as they are; bool[n]."""
        table, rows = self._table, new.rows
        simple: np.ndarray = new.first_seqs == table.received[rows] + 1
        simple &= new.ours
        simple &= new.last_seqs <= table.ack[rows] + self._window.steps
        if self._model.generative:
            simple &= ~table.generating[rows]
        if new.deadline_s is not None:
            simple &= new.deadline_s > now
        if (invalid := invalid_rows(self._model, new.inputs)) is not None:
            simple &= ~invalid
        return simple

    def _acknowledge(self, new: Arrivals, among: np.ndarray) -> None:
        """Takes the acks of some rows; `among` is bool[n]."""
        if new.acks is None:
            return
        told = among & (new.acks != NO_ACK)
        if np.count_nonzero(told) == len(told):  # nearly always
            self._rows.acknowledge(new.rows, new.acks)
        else:
            self._rows.acknowledge(new.rows[told], new.acks[told])

    def _accept(self, new: Arrivals, now: float) -> None:
        times = new.arrived_s, new.deadline_s, now
        self._rows.accept(new.rows, new.first_seqs, new.inputs, *times, new.resets)

    def _refuse_over_quota(self, new: Arrivals, simple: np.ndarray) -> np.ndarray:
        """Refuses, of rows that could be accepted, those of tenants at their limit; returns which.

        They are no longer `simple` then.
        """
        refused = np.zeros_like(simple)
        where = np.flatnonzero(simple)
        where = where[~self._rows.step_quota.fits(new.rows[where], new.steps)]
        refused[where], simple[where] = True, False
        if self._gaps and len(where):
            self._tell_gaps()
        for group in alike(new.sender[where], self._table.tenant[new.rows[where]]):
            chosen = where[group]
            sink = new.senders[int(new.sender[chosen[0]])]
            error = self._rows.step_quota.refusal(int(new.rows[chosen[0]]))
            sink.failures(new.tags[chosen].tolist(), new.first_seqs[chosen].tolist(), error)
        return refused

    def _refuse_behind(self, new: Arrivals, rounds: Rounds) -> None:
        """Refuses all rows at once of sessions whose missing step is not among them."""
        behind = rounds.take_behind(self._table.received[rounds.sessions] + 1)
        if not len(behind):
            return
        rows = new.rows[behind]
        among = np.zeros(len(new.rows), np.bool_)
        among[behind] = True
        self._acknowledge(new, among)
        expected = self._table.received[rows] + 1
        numbers = self._table.sink[rows]
        self._gaps.append((numbers, new.tags[behind], expected, new.first_seqs[behind]))

    def _refuse_gaps(self, new: Arrivals, streaming: np.ndarray) -> np.ndarray:
        """Refuses the rows that come behind a missing step; returns which these are."""
        expected = self._table.received[new.rows] + 1
        gaps = streaming & (new.first_seqs > expected)
        if gaps.any():
            numbers = self._table.sink[new.rows[gaps]]
            self._gaps.append((numbers, new.tags[gaps], expected[gaps], new.first_seqs[gaps]))
        return gaps

    def _tell_gaps(self) -> None:
        """Tells each sink of its gaps, with one call for all that need the same step next."""
        numbers, tags, expected, firsts = map(np.concatenate, zip(*self._gaps, strict=True))
        self._gaps.clear()
        for group in alike(numbers, expected):
            sink = self._rows.listeners.sink(int(numbers[group[0]]))
            error = _gap(int(expected[group[0]]))
            sink.failures(tags[group].tolist(), firsts[group].tolist(), error)

    # -- one row at a time

    def _admit_odd(self, new: Arrivals, now: float) -> None:
        """A row that is not simply next: refuses it, or answers what is known and takes the rest."""
        sink = new.senders[int(new.sender[0])]
        if self._table.was_parked(SessionRef(int(new.rows[0]), int(new.generations[0]))):
            sink.returned(int(new.tags[0]), new.block(sink))
            return
        try:
            fresh = self._resolve(new, sink, now)
        except CarouselError as error:
            sink.failures([int(new.tags[0])], [error.seq], error)
            return
        if fresh is not None:
            self._accept(fresh, now)

    def _resolve(self, new: Arrivals, sink: StepSink, now: float) -> Arrivals | None:
        """The part of a row that is new, or None; sends again what was computed before."""
        row, first, last = int(new.rows[0]), int(new.first_seqs[0]), int(new.last_seqs[0])
        self._check_session(new, sink, first)
        received = int(self._table.received[row])
        assert first <= received + 1, "gaps are refused before, together"
        if first <= received:
            self._check_repeated(new, row, first, min(last, received))
            self._rows.replay(row, first, last)
            if last <= received:
                return None
            new = self._tail(new, received + 1)
            first = received + 1
        limit = int(self._table.ack[row]) + self._window.steps
        if last > limit:
            raise CarouselError(
                "WINDOW_EXCEEDED",
                f"step {last} is beyond ack + window_steps = {limit}",
                metadata={"limit": limit},
                retry_after_s=self._retry_after_s,
                seq=first,
            )
        if new.deadline_s is not None and float(new.deadline_s[0]) <= now:
            raise CarouselError(
                "DEADLINE_EXCEEDED", "the deadline had passed on arrival", seq=first
            )
        self._check_values(new, first)
        self._rows.step_quota.check(row, new.steps, first)
        return new

    def _check_session(self, new: Arrivals, sink: StepSink, first: int) -> None:
        row = int(new.rows[0])
        self._rows.row_of(SessionRef(row, int(new.generations[0])))
        if not self._rows.listeners.is_bound(row, sink):
            raise CarouselError(
                "SUPERSEDED", "the session is bound to another stream or call", seq=first
            )
        if self._table.generating[row]:
            raise CarouselError("SESSION_BUSY", "the session is generating", seq=first)

    def _check_repeated(self, new: Arrivals, row: int, first: int, last: int) -> None:
        """A repeated seq must carry the same bytes and reset, and its output must still be kept."""
        ack = int(self._table.ack[row])
        if first <= ack:
            raise CarouselError(
                "OUTPUT_FORGOTTEN",
                f"the output of step {first} was acknowledged (ack is {ack})",
                metadata={"ack": ack},
                seq=first,
            )
        steps = last - first + 1
        at = self._window.at(new.rows, new.first_seqs, steps)
        same = (self._window.inputs[at][0] == new.inputs[0, :steps]).all(axis=1)
        resets = False if new.resets is None else new.resets[0, :steps]
        alike = self._window.resets[at][0] == resets
        if not (same & alike).all():
            place = int(np.argmin(same & alike))
            what = "with another reset" if same[place] else "with other inputs"
            seq = first + place
            raise CarouselError(
                "SEQUENCE_REUSED", f"step {seq} was accepted before {what}", seq=seq
            )

    def _check_values(self, new: Arrivals, first: int) -> None:
        for step in range(new.steps):
            if invalid_rows(self._model, new.inputs[:, step]) is not None:
                raise invalid_value(self._model, f"step {first + step}", first)

    @staticmethod
    def _tail(new: Arrivals, first: int) -> Arrivals:
        """The steps of a single row from `first` on."""
        cut = first - int(new.first_seqs[0])
        inputs = np.ascontiguousarray(new.inputs[:, cut:])
        resets = None if new.resets is None else new.resets[:, cut:]
        return replace(new, first_seqs=new.first_seqs + cut, inputs=inputs, resets=resets)


def _gap(expected: int) -> CarouselError:
    message = f"a later step came, but {expected} is next"
    return CarouselError("SEQUENCE_GAP", message, metadata={"expected": expected})
