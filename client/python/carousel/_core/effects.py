"""What a client must do after an event."""

from __future__ import annotations

from dataclasses import dataclass, field

from carousel_protos.v1 import carousel_pb2 as pb

from .tickets import Ticket


@dataclass(slots=True)
class Effects:
    """To be done in this order.

    Attributes:
        send: messages for the stream that is open; empty where none is.
        ended: tickets whose waiters are to be woken.
        reconnect_in_s: open the next stream after so many seconds, then call `connected`. None: there is
            a stream, or none is needed.
        wake_at_s: call `due` at this instant, which replaces the earlier one. None changes nothing.
    """

    send: list[pb.AttachRequest] = field(default_factory=list)
    ended: list[Ticket] = field(default_factory=list)
    reconnect_in_s: float | None = None
    wake_at_s: float | None = None
