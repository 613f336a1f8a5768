"""Sinks: what an engine calls with results. See `ports` for the threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from .errors import CarouselError
from .types import Bytes2D, GeneratedToken, GenerationEnd, Int64s, SessionView

if TYPE_CHECKING:
    from .ports import StepBlock


class StepSink(Protocol):
    """Receives the outputs of clients' steps.

    There is one for each Attach stream, one for all Step calls, and one for the Triton sequences of a model.
    A `tag` is the sink's number for one binding of a session. It is used only once.
    """

    def outputs(self, tags: Int64s, first_seqs: Int64s, steps: int, rows: Bytes2D) -> None:
        """Outputs of `steps` consecutive steps of each tag.

        Args:
            tags: int64[n].
            first_seqs: int64[n], the seq of the first of them.
            steps: how many of each tag.
            rows: uint8[n, steps * output_row_bytes], C-contiguous. The sink may keep it.
        """

    def failures(self, tags: Sequence[int], seqs: Sequence[int], error: CarouselError) -> None:
        """Steps of each tag, from its seq on, were refused or failed for one reason. At least one tag.

        A seq of 0 names no step. Many sessions in one call cost little more than one.
        """

    def unbound(self, tag: int, error: CarouselError) -> None:
        """The session is no longer bound to this sink: superseded, expired, closed, draining or revoked."""

    def durable(self, tags: Int64s, seqs: Int64s) -> None:
        """The store has confirmed the steps of each tag up to `seqs`. Both are int64[n]."""

    def away(self, tag: int, session: SessionView) -> None:
        """The session was parked in the store. `session` shows it, with `durable` equal to `applied`.

        To resume it, the sink requests it from the catalog and binds it again.
        """

    def returned(self, tag: int, block: StepBlock) -> None:
        """A block of one row arrived for a session that was parked before. Nothing of it was accepted.

        So it is for one that is being handed over. `moved` follows then, and the block is not needed.
        """

    def moved(self, tag: int, address: str) -> None:
        """The session was released for the replica at `address`, or for any if that is "".

        Only a sink that has bound it as `Hold.FOLLOWER` is called. The store has all that has run.
        """


class TokenSink(Protocol):
    """Receives the tokens of one generation."""

    def tokens(self, tokens: Sequence[GeneratedToken]) -> None:
        """At least one new token."""

    def finished(self, end: GenerationEnd) -> None:
        """The generation has finished. This is the last call."""

    def failed(self, error: CarouselError) -> None:
        """The generation has failed. This is the last call."""


class _Tick(threading.local):
    """The tick that runs on this thread. Sinks are called in the middle of it.

    Attributes:
        began_s: start of the current or last tick, by the engine's clock. 0 if this thread has run none. A
            link sets it again in the other process.
    """

    began_s = 0.0


current_tick = _Tick()
