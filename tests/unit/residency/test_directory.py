"""The directory: one place for an id, and a memory of those that ended."""

from __future__ import annotations

import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.types import SessionRef
from carousel_server.residency import directory as module
from carousel_server.residency.directory import Directory

REF = SessionRef(3, 1)


@pytest.fixture
def directory() -> Directory:
    directory = Directory()
    assert directory.claim("t", "a", "m") is None
    directory.settle("t", "a", REF)
    return directory


def reason(directory: Directory, tenant: str, session_id: str) -> str:
    assert directory.find(tenant, session_id) is None
    return directory.why_gone(tenant, session_id)


def test_a_settled_session_is_found_by_its_tenant_only(directory: Directory) -> None:
    assert directory.find("t", "a") == ("m", REF)
    assert reason(directory, "u", "a") == "SESSION_NOT_FOUND"
    assert reason(directory, "t", "b") == "SESSION_NOT_FOUND"


def test_a_claimed_session_is_not_there_yet() -> None:
    directory = Directory()
    directory.claim("t", "a", "m")
    assert reason(directory, "t", "a") == "SESSION_NOT_FOUND"
    directory.release("t", "a")
    assert len(directory) == 0


def test_the_same_engine_finds_it_again_and_another_is_refused(directory: Directory) -> None:
    assert directory.claim("t", "a", "m") == REF
    with pytest.raises(CarouselError, match="SESSION_EXISTS"):
        directory.claim("t", "a", "other")
    assert directory.claim("u", "a", "other") is None


@pytest.mark.parametrize("ref", [SessionRef(0, 0), SessionRef((1 << 28) - 2, 1 << 60)])
def test_a_place_is_kept_as_it_was_given(ref: SessionRef) -> None:
    directory = Directory()
    for engine in ("m", "n"):
        directory.claim("t", engine, engine)
        directory.settle("t", engine, ref)
        assert directory.find("t", engine) == (engine, ref)
        assert directory.claim("t", engine, engine) == ref


@pytest.mark.parametrize("why", ["SESSION_EXPIRED", "SESSION_CLOSED"])
def test_how_a_session_ended_is_remembered_until_its_id_is_used_again(
    directory: Directory, why: str
) -> None:
    directory.release("t", "a", why)
    assert reason(directory, "t", "a") == why
    directory.claim("t", "a", "m")
    directory.release("t", "a")
    assert reason(directory, "t", "a") == why
    directory.claim("t", "a", "m")
    directory.settle("t", "a", REF)
    directory.release("t", "a")
    assert reason(directory, "t", "a") == "SESSION_NOT_FOUND"


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 2)
    directory = Directory()
    for name in "abc":
        directory.claim("t", name, "m")
        directory.release("t", name, "SESSION_CLOSED")
    assert reason(directory, "t", "a") == "SESSION_NOT_FOUND"
    assert reason(directory, "t", "b") == "SESSION_CLOSED"
