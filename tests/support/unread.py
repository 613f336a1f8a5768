"""What an Attach stream has said and its client has not read."""

from __future__ import annotations

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.wire.outbox import Outbox


def unread(outbox: Outbox) -> list[pb.AttachResponse]:
    """Replies that wait, in order."""
    return [pb.AttachResponse.FromString(data) for data in outbox._waiting]
