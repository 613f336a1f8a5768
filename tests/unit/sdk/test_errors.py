"""Every reason has its class, and the class tells what the registry tells."""

from __future__ import annotations

import copy
import inspect
import itertools
from pathlib import Path
from types import ModuleType

import pytest
from google.rpc.status_pb2 import Status

import carousel
from carousel import exceptions
from carousel._core.faults import error_of
from carousel.testing.refusals import Refusal
from carousel_protos.errors import ERRORS, Actor, Code

from .scripts import script


@pytest.fixture
def generator() -> ModuleType:
    return script("generate_errors")


def test_the_committed_classes_are_those_of_the_registry(generator: ModuleType) -> None:
    assert generator.TARGET.read_text(encoding="utf-8") == generator.render()
    assert generator.main(["--check"]) == 0


def test_a_check_names_what_is_out_of_date_and_writes_nothing(
    generator: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator.TARGET = tmp_path / "_errors.py"
    generator.TARGET.write_text("stale", encoding="utf-8")
    assert generator.main(["--check"]) == 1
    assert "out of date: _errors.py" in capsys.readouterr().err
    assert generator.TARGET.read_text(encoding="utf-8") == "stale"
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0


@pytest.mark.parametrize("reason", ERRORS)
def test_a_status_becomes_the_exception_of_its_reason(reason: str) -> None:
    spec = ERRORS[reason]
    refusal = Refusal(reason, "it happened.", retry_after_s=1.5, expected=7)
    error = error_of(refusal.status(), seq=3)
    assert type(error).__name__ == spec.exception
    assert type(error) is getattr(carousel, spec.exception)
    assert (error.reason, error.code) == (reason, spec.code.name)
    assert error.message == "it happened."
    assert error.fix == spec.fix
    assert error.metadata == {"expected": "7"}
    assert error.retry_after_s == pytest.approx(1.5)
    assert error.request_id == "fake"
    assert error.seq == 3
    assert error.retryable == spec.retryable
    for part in (reason, "it happened.", spec.fix, "fake"):
        assert part in str(error)
    assert spec.fix.split()[0] in inspect.getdoc(type(error))


@pytest.mark.parametrize("spec", ERRORS.values(), ids=lambda spec: spec.reason)
def test_who_must_act_decides_the_category(spec: object) -> None:
    kind = getattr(carousel, spec.exception)
    assert issubclass(kind, carousel.RefusedError) == (spec.actor is Actor.RETRY)
    server = spec.actor in (Actor.OPERATOR, Actor.MAINTAINERS)
    assert issubclass(kind, carousel.ServerFaultError) == server
    if spec.code is Code.NOT_FOUND:
        assert issubclass(kind, carousel.NotFoundError)
        assert issubclass(kind, LookupError)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.INVALID_ARGUMENT, carousel.InvalidInputError),
        (Code.NOT_FOUND, carousel.NotFoundError),
        (Code.ABORTED, carousel.ConflictError),
        (Code.UNAVAILABLE, carousel.RefusedError),
        (Code.DATA_LOSS, carousel.ServerFaultError),
    ],
)
def test_a_reason_of_a_newer_server_has_a_category(
    code: Code, kind: type[carousel.CarouselError]
) -> None:
    refusal = Refusal("INTERNAL", "new").status()
    refusal.code = code.value
    refusal.details[0].value = refusal.details[0].value.replace(b"INTERNAL", b"NEW_NEWS")
    error = error_of(refusal)
    assert type(error) is kind
    assert error.reason == "NEW_NEWS"
    assert error.retry_after_s is None


def test_a_status_without_details_has_a_category_too() -> None:
    error = error_of(Status(code=Code.NOT_FOUND.value, message="gone"))
    assert type(error) is carousel.NotFoundError
    assert error.message == "gone"


def test_the_drawn_tree_is_the_tree() -> None:
    drawn = [
        (len(line) - len(line.lstrip(" ·")), line.strip(" ·"))
        for line in inspect.getdoc(exceptions).splitlines()
        if line.strip(" ·").endswith("Error") and " " not in line.strip(" ·")
    ]
    assert sorted(name for _, name in drawn) == sorted(exceptions.__all__)
    for (depth, name), (next_depth, next_name) in itertools.pairwise(drawn):
        kind, following = getattr(exceptions, name), getattr(exceptions, next_name)
        assert issubclass(following, kind) == (next_depth > depth)


def test_a_copy_is_the_same_error() -> None:
    error = error_of(Refusal("SEQUENCE_GAP", "m", expected=2).status(), seq=4)
    again = copy.copy(error)
    assert again is not error
    assert type(again) is carousel.SequenceGapError
    assert vars(again) == vars(error)
