"""What a client must do after an event."""

from __future__ import annotations

from dataclasses import dataclass, field

from carousel_protos.v1 import carousel_pb2 as pb

from .tickets import Ticket


@dataclass(slots=True)
class Effects:
    """To be done in this order. Streams are named by the address of their server.

    Attributes:
        send: messages for the streams that are open.
        ended: tickets whose waiters are to be woken.
        connect: streams to be opened, each after so many seconds. Then call `connected`.
        leave: servers that are no longer known and that no session needs. Streams to them are to be ended.
        wake_at_s: call `due` at this instant, which replaces the earlier one. None changes nothing.
    """

    send: dict[str, list[pb.AttachRequest]] = field(default_factory=dict)
    ended: list[Ticket] = field(default_factory=list)
    connect: dict[str, float] = field(default_factory=dict)
    leave: list[str] = field(default_factory=list)
    wake_at_s: float | None = None
