"""Commands and their sinks and futures as plain values: what has an identity crosses as a number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import fields
from operator import attrgetter
from typing import Any, get_args

from carousel_server.core.errors import CarouselError, refusal_of
from carousel_server.core.futures import Internal
from carousel_server.core.ports import Activate, Command, StepBlock, numbers
from carousel_server.core.types import GeneratedToken, SessionRef

_NOT_SENT = (StepBlock, Activate, Internal)
"""Blocks have a form of their own. The others come from the store and the drain, in the engine's process."""

_COMMANDS: dict[str, type[Command]] = {
    kind.__name__: kind for kind in get_args(Command) if not issubclass(kind, _NOT_SENT)
}
"""What a front end submits, beside blocks."""

_PLAIN = {
    name: tuple(field.name for field in fields(kind) if field.name not in ("reply", "sink"))
    for name, kind in _COMMANDS.items()
}


def command_fields(command: Command) -> tuple[str, tuple[Any, ...]]:
    """A command's name, and its fields but for sink and reply."""
    name = type(command).__name__
    return name, tuple(getattr(command, field) for field in _PLAIN[name])


def make_command(name: str, values: Sequence[Any], sink: object = None) -> Any:
    """The command again, with a sink of this process and a future of its own."""
    given = dict(zip(_PLAIN[name], values, strict=True))
    if sink is not None:
        given["sink"] = sink
    return _COMMANDS[name](**given)


def block_fields(block: StepBlock) -> tuple[Any, ...]:
    """A block without its sink; the references as rows and generations."""
    rows, generations = zip(*block.refs, strict=True)
    tags, firsts, acks = map(numbers, (block.tags, block.first_seqs, block.acks))
    return (
        list(tags), rows, generations, list(firsts), block.steps, bytes(block.inputs), list(acks),
        block.deadline_s, block.tenant, bytes(block.resets),
    )  # fmt: skip


def make_block(sink: Any, values: Sequence[Any]) -> StepBlock:
    """The block again, with a sink of this process."""
    tags, rows, generations, first_seqs, steps, inputs, *rest = values
    refs = list(map(SessionRef, rows, generations))
    return StepBlock(sink, tags, refs, first_seqs, steps, inputs, *rest)


token_fields: Callable[[GeneratedToken], tuple[Any, ...]] = attrgetter(
    *(field.name for field in fields(GeneratedToken))
)
"""A token as a plain tuple."""


def settle(future: Future[Any], value: Any, error: CarouselError | None) -> None:
    """Settles a future, unless it was cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)


def outcome_of(future: Future[Any]) -> tuple[Any, CarouselError | None]:
    """Value and error of a settled future; what is no error of the registry is a defect."""
    if future.cancelled():
        return None, CarouselError("INTERNAL", "it was withdrawn")
    error = future.exception()
    if error is None:
        return future.result(), None
    return None, refusal_of(error)
