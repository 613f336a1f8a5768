"""Requests of streams that are not parsed: they differ from an earlier one only in id, sequence and numbers.

The native transport hands over all that came in one poll. One more step of a running sequence goes straight
to it. All others take the usual way, such as those with a START or END.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from carousel_server.core.ports import NO_DEADLINE
from carousel_server.wire.call import Call
from carousel_server.wire.gate import Gate
from carousel_server.wire.messages import Gather, Gathered
from carousel_server.wire.native.readers import MOST_FORMS, UNKNOWN, InferReader, InferRow
from carousel_server.wire.options import WireOptions

from .asking import Asked
from .models import ServedModel
from .parameters import UINT64
from .replies import ReplyForm
from .sequence import Request
from .stream import Replies
from .tally import Stopwatch


class _Form(NamedTuple):
    """What all requests of one form ask for."""

    served: ServedModel
    reply: ReplyForm
    row_bytes: int


class PlainRequests:
    """Those of all streams. On the loop only.

    Attributes:
        gather: where the streams' requests go; None where the transport cannot read them.
    """

    def __init__(self, options: WireOptions, gate: Gate) -> None:
        self._gate = gate
        self._most_bytes = options.max_message_bytes
        self._forms: dict[int, _Form] = {}
        self.gather: Gather | None = None
        if options.transport == "native":
            self._reader = InferReader()
            self.gather = Gather(self._take)

    def learn(self, request: bytes, asked: Asked) -> None:
        """Remembers the form of a request of a stream that was parsed and is right."""
        tensors = asked.served.tensors
        deadline_s = asked.parameters.deadline_s
        if self.gather is None or deadline_s != NO_DEADLINE or tensors.input.is_converted:
            return
        number = self._reader.learn(request)
        if number != UNKNOWN and number not in self._forms:
            if len(self._forms) == MOST_FORMS:  # the reader has forgotten them too
                self._forms.clear()
            self._forms[number] = _Form(asked.served, asked.form, tensors.input.wire_bytes)

    def _take(self, data: bytes, requests: list[tuple[Gathered, int, int]]) -> None:
        """Takes requests as `Gather` has them."""
        gate = self._gate
        if gate.draining or gate.quotas.limits.tenant_calls_per_s:
            for call, begin, end in requests:
                call.offer(data[begin:end])
            return
        now = time.monotonic()
        _, begins, ends = zip(*requests, strict=True)
        rows = self._reader.read(data, begins, ends)
        for (call, begin, end), row in zip(requests, rows, strict=True):
            try:
                if call.gather is None or not self._step(call.owner, data, row, end - begin, now):
                    call.offer(data[begin:end])
            except Exception as error:  # noqa: BLE001 - of this call alone; its handler raises it
                call.fail(error)

    def _step(
        self, owner: tuple[Replies, Call], data: bytes, row: InferRow, size: int, now: float
    ) -> bool:
        """Steps a running sequence, if that is all that a request of `size` bytes asks for."""
        number, sequence_id, flags, id_at, id_end, row_at, row_end = row
        form = self._forms.get(number)
        if form is None or flags or size > self._most_bytes:
            return False
        replies, call = owner
        served, reply, row_bytes = form
        sequence = served.running(call.tenant, sequence_id & UINT64)
        if sequence is None or not sequence.is_ready or not replies.has_room:
            return False
        if row_end - row_at != row_bytes:
            return False
        call.heard = True
        expected = replies.expect(data[id_at:id_end], size)
        watch = Stopwatch(served.tallies, call.tenant, now, now)
        expected.of(reply, sequence.sequence_id, watch)
        sequence.step(Request(data[row_at:row_end], expected))
        return True
