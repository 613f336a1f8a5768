"""Sessions bound to handles of a stream, and those that are about to be."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

from carousel_server.core.ports import EnginePort, Place
from carousel_server.core.types import SessionRef


class Binding(NamedTuple):
    """A session bound to a handle."""

    engine: EnginePort
    ref: SessionRef
    tag: int
    session_id: str
    attach_id: int


@dataclass(slots=True)
class Wish:
    """A binding on its way.

    Attributes:
        handle, tag: under which the session is to be bound.
        find: brings the session onto a row; called again if it has left before it was bound.
        attach_id, epoch_floor, ack: as in `core.ports.Bind`.
        orphan: nobody else can ever name the session, so it is closed if the binding fails.
        quiet: the client thinks that the handle is bound all the while.
    """

    handle: int
    tag: int
    find: Callable[[], Future[Place]]
    attach_id: int = 0
    epoch_floor: int = 0
    ack: int = 0
    orphan: bool = False
    quiet: bool = False
    tries: int = 0
