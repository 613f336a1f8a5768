"""Every event of an Attach stream has a method of its own; none falls to another event's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.wire import WireOptions
from carousel_server.wire.attach import Conversation

EVENTS = [field.name for field in pb.AttachRequest.DESCRIPTOR.oneofs_by_name["event"].fields]


class Outbox:
    def __init__(self) -> None:
        self.sent: list[pb.AttachResponse] = []

    def put(self, message: pb.AttachResponse) -> None:
        self.sent.append(message)


@pytest.fixture
def conversation() -> Any:
    stream = SimpleNamespace(seats=None, tenant="t", outbox=Outbox())
    unused: Any = SimpleNamespace()
    return Conversation(stream, unused, WireOptions(server_version="1.2"), unused)  # type: ignore[arg-type]


def request(event: str) -> pb.AttachRequest:
    message = pb.AttachRequest()
    getattr(message, event).SetInParent()
    return message


def test_every_event_has_its_method() -> None:
    assert set(Conversation._events) == set(EVENTS)


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_reaches_its_method_and_no_other(
    conversation: Any, event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    for name, method in tuple(Conversation._events.items()):
        assert method.__name__.strip("_") in (name, "welcome")
        monkeypatch.setitem(
            Conversation._events,
            name,
            lambda _, message, name=name: seen.append(f"{name} {type(message).__name__}"),
        )
    conversation._greeted = event != "hello"
    conversation.take(request(event))
    assert seen == [f"{event} {type(getattr(request(event), event)).__name__}"]


def test_a_hello_is_answered_once(conversation: Any) -> None:
    conversation.take(request("hello"))
    (welcome,) = conversation._stream.outbox.sent
    assert welcome.welcome.server_version == "1.2"
    with pytest.raises(CarouselError, match="a second Hello"):
        conversation.take(request("hello"))


def test_an_event_that_nobody_knows_is_an_error(conversation: Any) -> None:
    conversation.take(request("hello"))
    newer = pb.AttachRequest()
    newer.ParseFromString(b"\xfa\x06\x00")  # field 111
    with pytest.raises(CarouselError, match="without its event"):
        conversation.take(newer)
    assert len(conversation._stream.outbox.sent) == 1
