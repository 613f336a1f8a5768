"""Blocks of Attach streams that are not parsed: those of one session, without a deadline and resets.

The native transport hands over all that came in one poll, of whatever streams. Those that are not plain, or
not for a session on a row, take the usual way.
"""

from __future__ import annotations

from .blocks import Blocks
from .gate import Gate
from .messages import Gather, Gathered
from .native.readers import BlockReader
from .options import WireOptions


def gather_of(options: WireOptions, gate: Gate) -> Gather | None:
    """Where messages of Attach streams go; None where the transport cannot read them.

    The owner of a call's messages is its Blocks.
    """
    if options.transport != "native":
        return None
    reader, quotas, turns = BlockReader(), gate.quotas, gate.turns

    def take(data: bytes, requests: list[tuple[Gathered, int, int]]) -> None:
        _, begins, ends = zip(*requests, strict=True)
        rows = reader.read(data, begins, ends)
        in_turn = turns.needed or quotas.limits.tenant_calls_per_s or quotas.backlogged.tenants
        for (call, begin, end), row in zip(requests, rows, strict=True):
            blocks: Blocks | None = call.owner
            try:
                if (
                    in_turn
                    or call.gather is None
                    or blocks is None
                    or gate.refuses_steps(follows=blocks.follows)
                    or not blocks.submit_plain(data, row, end - begin)
                ):
                    call.offer(data[begin:end])
            except Exception as error:  # noqa: BLE001 - of this call alone; its handler raises it
                call.fail(error)

    return Gather(take)
