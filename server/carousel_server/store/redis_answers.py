"""Reads the answers of the functions in carousel.lua."""

from __future__ import annotations

from typing import Any

from carousel_server.core.store import (
    Announcement,
    Asked,
    Held,
    Holder,
    NewSession,
    Record,
    Replica,
    SessionKey,
)
from carousel_server.core.types import Durability

from .faults import gone
from .redis_keys import key_of, name_of


def acquired(key: SessionKey, answer: Any) -> Any:
    """The answer of `acquire` to this replica.

    Raises:
        CarouselError: Held, or there is no such session.
    """
    if answer[0] == b"HELD":
        _, left_ms, holder, address, kept = answer
        raise Held(key, left_ms / 1000, holder.decode(), address=address.decode(), kept=bool(kept))
    return unless_gone(key, answer)


def unless_gone(key: SessionKey, answer: Any) -> Any:
    """The record in an answer, if there is a session."""
    if answer[0] == b"NONE":
        raise gone(key, None)
    if answer[0] == b"ENDED":
        raise gone(key, answer[1].decode())
    return answer


def read(key: SessionKey, answer: Any, own: str) -> Record:
    """The record in an answer of `read` to the replica of the name `own`.

    Raises:
        CarouselError: there is no such session.
    """
    _, name, address, facts, head = unless_gone(key, answer)
    holder = Holder(name.decode(), address.decode(), is_own=name.decode() == own) if name else None
    return record(key, facts, holder=holder, head=head)


def record(key: SessionKey, facts: Any, *, holder: Holder | None, head: bytes = b"") -> Record:
    """A record from the values of FACTS in carousel.lua."""
    epoch, seq, used, model, durability, ttl, seed, created_at = facts
    session = NewSession(
        model.decode(), Durability(int(durability)), float(ttl), int(seed), float(created_at)
    )
    return Record(*(key, session, int(epoch), int(seq), b"", float(used)), holder, head=head)


def replica(answer: Any) -> Replica:
    """A replica from one entry of `replicas`."""
    name, accepting, sessions, address = answer
    said = Announcement(address.decode(), accepting == b"1", int(sessions))
    return Replica(name.decode(), said)


def told(said: Announcement) -> tuple[str, str, str]:
    """An announcement as arguments of `renew`."""
    return str(int(said.accepting)), str(said.sessions), said.address


def mail(request: Asked) -> str:
    """A request as it lies in a mailbox: take_over, the asker's address, the session's name."""
    return f"{int(request.take_over)} {request.by} {name_of(request.key)}"


def asked(answer: bytes) -> Asked:
    """The request that `mail` made."""
    take_over, by, name = answer.decode().split(" ", 2)
    return Asked(key_of(name), take_over == "1", by)
