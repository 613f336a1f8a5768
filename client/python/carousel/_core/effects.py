"""What a client must do after it has told the core of an event."""

from __future__ import annotations

from dataclasses import dataclass, field

from carousel_protos.v1 import carousel_pb2 as pb

from .tickets import Ticket


@dataclass(slots=True)
class Effects:
    """Messages to send, in this order, and tickets whose waiters are to be woken."""

    send: list[pb.AttachRequest] = field(default_factory=list)
    ended: list[Ticket] = field(default_factory=list)
