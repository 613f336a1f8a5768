"""Every command says where its refusal goes, and `ask` never raises."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import MISSING, fields
from functools import partial
from typing import Any, get_args

import pytest

from carousel_server.core import ports
from carousel_server.core.errors import CarouselError
from carousel_server.core.futures import WithReply
from carousel_server.core.ports import Command, StepBlock, WithoutReply, ask
from carousel_server.core.types import SessionRef

BUSY = CarouselError("QUEUE_FULL", "too much", retry_after_s=0.01)
REF = SessionRef(1, 1)


class Heard:
    """A sink that writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, verb: str) -> Any:
        return lambda *arguments: self.calls.append((verb, arguments))


class Door:
    """An engine that takes nothing."""

    def __init__(self, error: Exception = BUSY) -> None:
        self.error = error

    def submit(self, command: Command) -> None:
        raise self.error


def make(kind: type[Command], sink: Any) -> Any:
    """A command of a kind; what it asks for does not matter."""
    needed = [
        field.name for field in fields(kind) if field.default is field.default_factory is MISSING
    ]
    given = {"sink": sink, "tell": partial(sink.told, BUSY)}
    return kind(**{name: given.get(name) for name in needed})


@pytest.mark.parametrize("kind", get_args(Command), ids=lambda kind: kind.__name__)
def test_a_refusal_reaches_whoever_waits(kind: type[Command]) -> None:
    sink = Heard()
    command = make(kind, sink)
    reply = ask(Door(), command)  # type: ignore[call-overload]
    if isinstance(command, WithReply):
        assert reply is command.reply
        assert reply.exception(0) is BUSY
    else:
        assert reply is None
        assert len(sink.calls) == (not isinstance(command, WithoutReply))
    assert all(BUSY in arguments for _, arguments in sink.calls)


def test_no_command_has_two_readers_or_forgets_its_own() -> None:
    for kind in get_args(Command):
        names = {field.name for field in fields(kind)}
        assert ("reply" in names) == issubclass(kind, WithReply)
        assert not {"reply", "sink"} <= names or kind is ports.Bind
        assert callable(kind.refuse)


def test_a_block_is_refused_session_by_session() -> None:
    sink: Any = Heard()
    ask(Door(), StepBlock(sink, [4, 5], [REF, REF], [7, 9], 1, b""))  # type: ignore[arg-type]
    assert sink.calls == [("failures", ([4, 5], [7, 9], BUSY))]


def test_a_call_that_was_withdrawn_stays_so() -> None:
    get = ports.Get(REF)
    assert get.reply.cancel()
    get.refuse(BUSY)
    assert get.reply.cancelled()


def test_a_defect_is_told_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    reply: Future[Any] = ask(Door(ZeroDivisionError("a secret")), ports.Get(REF))  # type: ignore[arg-type]
    error = reply.exception(0)
    assert isinstance(error, CarouselError)
    assert (error.reason, "secret" in error.message) == ("INTERNAL", False)
    assert "a secret" in caplog.text
