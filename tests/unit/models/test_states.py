"""Declarations of states: types, numbers to begin with, and what older packages keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from carousel_models.spec import (
    Architecture,
    CustomSpec,
    FeaturesInput,
    StateDeclaration,
    uniform_stack,
)
from carousel_models.stack import StateSpec
from carousel_models.states import RANGES, InitialState
from carousel_models.weights import fingerprint

ONE = {"input": FeaturesInput(width=2), "stack": uniform_stack("lstm", 2, 3)}


def declared(dtype: Any, initial: Any = 0, **more: Any) -> StateDeclaration:
    return StateDeclaration(name="s", shape=(2,), dtype=dtype, initial=initial, **more)


@pytest.mark.parametrize("dtype", RANGES)
def test_every_type_is_torchs_and_survives_json(dtype: str) -> None:
    one = declared(dtype, 1)
    assert StateDeclaration.model_validate_json(one.model_dump_json()) == one
    spec = StateSpec.of(one)
    assert str(spec.dtype) == f"torch.{dtype}"
    assert spec.finite == (dtype not in ("int32", "int64", "bool"))


@pytest.mark.parametrize("dtype", [name for name in RANGES if name != "complex64"])
def test_the_ranges_are_torchs(dtype: str) -> None:
    kind = getattr(torch, dtype)
    if kind is torch.bool:
        assert RANGES[dtype] == (0, 1)
        return
    limits: Any = torch.finfo(kind) if kind.is_floating_point else torch.iinfo(kind)
    assert RANGES[dtype] == (limits.min, limits.max)


@pytest.mark.parametrize(
    ("dtype", "initial", "message"),
    [
        ("int32", 0.5, "a state of int32 cannot begin with 0.5"),
        ("int32", 1 << 31, "begins with a number from -2147483648 to"),
        ("bool", 2, "from 0 to 1"),
        ("float16", 1e5, "from -65504.0 to 65504.0"),
        ("float32", -1e39, "begins with a number from"),
        ("float32", float("nan"), "finite"),
        ("float64", float("inf"), "finite"),
        ("float32", "zeros", "initial"),
        ("float8", 0, "dtype"),
    ],
)
def test_numbers_that_a_type_does_not_have(dtype: Any, initial: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        declared(dtype, initial)


@pytest.mark.parametrize("initial", [True, 3, -2.5, 1 << 62])
def test_the_number_is_written_as_it_was_given(initial: float) -> None:
    dtype = "bool" if initial is True else "int64" if isinstance(initial, int) else "float64"
    found = StateDeclaration.model_validate_json(declared(dtype, initial).model_dump_json())
    assert (found.initial, type(found.initial)) == (initial, type(initial))


def test_what_was_added_later_is_written_where_it_is_used() -> None:
    """Fingerprints hash this JSON, so a package without the new fields keeps its own."""
    plain = {"name": "s", "shape": [2], "dtype": "float32"}
    assert declared("float32").model_dump(mode="json") == plain
    assert declared("float32", 0.0).model_dump(mode="json") == plain
    assert declared("float32", 1.5).model_dump(mode="json") == plain | {"initial": 1.5}
    assert "initial" not in Architecture(**ONE).model_dump(mode="json")
    stored = InitialState(stored=("0.h",))
    written = Architecture(**ONE, initial=(stored,)).model_dump(mode="json")
    assert written["initial"] == [{"name": "", "stored": ["0.h"]}]


def test_initial_states_count_in_the_fingerprint() -> None:
    plain = Architecture(**ONE)
    learned = Architecture(**ONE, initial=(InitialState(stored=("0.h",)),))
    value = torch.zeros(3)
    marks = {
        fingerprint(plain, {}),
        fingerprint(learned, {"initial.0.h": value}),
        fingerprint(learned, {"initial.0.h": value + 1}),
    }
    assert len(marks) == 3


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        ((InitialState(stored=("2.h",)),), "no state '2.h' .*, only 0.c, 0.h, 1.c, 1.h"),
        ((InitialState(name="a", stored=()), InitialState(name="a", stored=())), "the same name"),
        ((InitialState(name="a", stored=()), InitialState(stored=())), "must be the first"),
        ((InitialState(stored=("0.h", "0.h")),), "two tensors of initial states"),
    ],
)
def test_initial_states_that_do_not_fit(initial: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Architecture(**ONE, initial=initial)


def test_names_that_would_share_a_tensor() -> None:
    states = (StateDeclaration(name="a.h", shape=()), StateDeclaration(name="h", shape=()))
    custom = CustomSpec(module="a:B", states=states, width=1)
    initial = (InitialState(stored=("a.h",)), InitialState(name="a", stored=("h",)))
    with pytest.raises(ValidationError, match="two tensors of initial states"):
        Architecture(input=FeaturesInput(width=2), custom=custom, initial=initial)


def test_a_bidirectional_model_has_no_state_to_begin_with() -> None:
    stack = uniform_stack("gru", 1, 3, bidirectional=True)
    assert Architecture(input=FeaturesInput(width=2), stack=stack).states == ()
    with pytest.raises(ValidationError, match="as the model has no state"):
        Architecture(
            input=FeaturesInput(width=2), stack=stack, initial=(InitialState(stored=("0.h",)),)
        )
