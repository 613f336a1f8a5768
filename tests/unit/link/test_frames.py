"""What crosses the link is what was sent: every command, block and token, with every field."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import fields, replace
from typing import Any, get_args

import numpy as np
import pytest

from carousel_server.core.moves import HandOver, MoveAway, Released, SetOwners
from carousel_server.core.ports import Activate, Command, Committed, StepBlock
from carousel_server.core.types import GeneratedToken, SessionRef
from carousel_server.link.frames import (
    block_fields,
    command_fields,
    make_block,
    make_command,
    token_fields,
)

HERE_ONLY = (StepBlock, Activate, Committed, HandOver, MoveAway, SetOwners, Released)
SENT = [kind for kind in get_args(Command) if kind not in HERE_ONLY]

BLOCK = StepBlock(
    sink=None, tags=(1, 2), refs=(SessionRef(3, 4), SessionRef(5, 6)), first_seqs=(7, 8), steps=2,
    inputs=b"abcd", acks=(9, 10), deadline_s=11.0, tenant="t",
    resets=b"\1\0\0\1",
)  # fmt: skip
OTHER_BLOCK: dict[str, Any] = {
    "sink": "other",
    "tags": (21, 22),
    "refs": (SessionRef(23, 24), SessionRef(25, 26)),
    "first_seqs": (27, 28),
    "steps": 3,
    "inputs": b"efgh",
    "acks": (),
    "deadline_s": 29.0,
    "tenant": "u",
    "resets": b"",
}
TOKEN = GeneratedToken(1, "a", 2, None, ())
OTHER_TOKEN: dict[str, Any] = {
    "id": 9,
    "text": "b",
    "seq": 8,
    "logprob": -1.0,
    "alternatives": ((3, -2.0),),
}


def plain(value: Any) -> Any:
    return (
        list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else value
    )


@pytest.mark.parametrize("kind", SENT)
def test_every_command_crosses_with_every_field(kind: type[Any]) -> None:
    names = [field.name for field in fields(kind)]
    given = {name: f"the {name}" for name in names if name not in ("reply", "sink")}
    sink = {"sink": "here"} if "sink" in names else {}
    name, values = command_fields(kind(**given, **sink))
    made = make_command(name, values, "there" if sink else None)
    assert type(made) is kind
    assert {field: getattr(made, field) for field in given} == given
    assert getattr(made, "sink", "there") == "there"
    assert isinstance(getattr(made, "reply", Future()), Future)


@pytest.mark.parametrize("kind", HERE_ONLY)
def test_what_does_not_cross_as_a_command_is_an_error(kind: type[Any]) -> None:
    with pytest.raises(KeyError, match=kind.__name__):
        make_command(kind.__name__, ())


@pytest.mark.parametrize("name", OTHER_BLOCK)
def test_every_field_of_a_block_crosses(name: str) -> None:
    block = replace(BLOCK, **{name: OTHER_BLOCK[name]})
    made = make_block(block.sink, block_fields(block))
    for field in fields(StepBlock):
        assert plain(getattr(made, field.name)) == plain(getattr(block, field.name)), field.name
    assert np.shape(made.refs) == (2, 2)


@pytest.mark.parametrize("name", OTHER_TOKEN)
def test_every_field_of_a_token_crosses(name: str) -> None:
    token = replace(TOKEN, **{name: OTHER_TOKEN[name]})
    assert GeneratedToken(*token_fields(token)) == token


def test_every_field_is_varied_above() -> None:
    assert set(OTHER_BLOCK) == {field.name for field in fields(StepBlock)}
    assert set(OTHER_TOKEN) == {field.name for field in fields(GeneratedToken)}


def test_a_block_of_arrays_arrives_as_numbers() -> None:
    arrays = replace(
        BLOCK, tags=np.asarray(BLOCK.tags), refs=np.asarray(BLOCK.refs),
        first_seqs=np.asarray(BLOCK.first_seqs), acks=np.asarray(BLOCK.acks),
    )  # fmt: skip
    there = make_block(None, block_fields(arrays))
    assert there == make_block(None, block_fields(BLOCK))
