"""What a fault of the store leaves in doubt is put right: no session stays with a replica that lost it."""

from __future__ import annotations

from typing import Any

import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import Acquire, Holding, NewSession, Release, Remove, SessionKey
from carousel_server.core.types import Durability
from carousel_server.store.memory import MemoryMedium, MemoryStore
from carousel_server.store.thread import StoreThread

KEY = SessionKey("t", "s")
NEW = NewSession("m", Durability.ASYNC, 60.0, 1, 0.0)


class Shaky(MemoryStore):
    """A store that can be away, or do what it is asked and lose the answer."""

    away = False
    loses = False

    def _answer(self, answer: Any) -> Any:
        if self.loses:
            raise CarouselError("STORE_UNAVAILABLE", "the answer was lost")
        return answer

    def _reached(self) -> None:
        if self.away:
            raise CarouselError("STORE_UNAVAILABLE", "nobody is there")

    def acquire(self, key: SessionKey, **more: Any) -> Any:
        self._reached()
        return self._answer(super().acquire(key, **more))

    def release(self, held: Any) -> None:
        self._reached()
        super().release(held)

    def remove(self, *of: Any) -> Any:
        self._reached()
        return super().remove(*of)


class Rig:
    """A replica's store thread, turned by hand, and another replica on the same medium."""

    def __init__(self) -> None:
        self.now = 100.0
        medium = MemoryMedium()
        self.store = Shaky(medium, owner="here", now=lambda: self.now, lease_ttl_s=10.0)
        self.other = MemoryStore(medium, owner="there", now=lambda: self.now, lease_ttl_s=10.0)
        self.thread = StoreThread(self.store, clock=lambda: self.now)

    def run(self, request: Any) -> Any:
        self.thread.submit(request)
        self.thread.run_pending()
        return request.reply.exception() or request.reply.result()

    def later(self) -> None:
        """The store answers again, and the thread turns."""
        self.store.away = self.store.loses = False
        self.now += 1.0
        self.thread.run_pending()


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_an_acquire_whose_answer_was_lost_is_given_back(rig: Rig) -> None:
    rig.store.loses = True
    assert rig.run(Acquire(KEY, new=NEW)).reason == "STORE_UNAVAILABLE"
    rig.later()
    assert rig.other.acquire(KEY, epoch_floor=0, new=None).epoch == 3


def test_a_session_acquired_again_meanwhile_is_kept(rig: Rig) -> None:
    rig.store.loses = True
    rig.run(Acquire(KEY, new=NEW))
    rig.store.loses = False
    assert rig.run(Acquire(KEY, new=NEW)).epoch == 2
    rig.later()
    assert rig.store.read(KEY).epoch == 2
    with pytest.raises(CarouselError, match="held by another"):
        rig.other.acquire(KEY, epoch_floor=0, new=None)


def test_a_release_that_failed_is_made_up_for(rig: Rig) -> None:
    epoch = rig.run(Acquire(KEY, new=NEW)).epoch
    rig.store.away = True
    assert rig.run(Release([Holding(KEY, epoch, 100.0)])).reason == "STORE_UNAVAILABLE"
    rig.now += 1.0
    rig.thread.run_pending()  # and once more in vain
    rig.later()
    assert not rig.store.read(KEY).held


def test_a_removal_that_failed_is_made_up_for(rig: Rig) -> None:
    epoch = rig.run(Acquire(KEY, new=NEW)).epoch
    rig.store.away = True
    rig.run(Remove(KEY, epoch, "SESSION_CLOSED"))
    rig.later()
    with pytest.raises(CarouselError, match="was closed"):
        rig.store.read(KEY)


def test_what_nobody_has_any_more_needs_no_giving_back(rig: Rig) -> None:
    rig.store.away = True
    rig.run(Acquire(KEY))
    rig.later()
    assert rig.run(Acquire(KEY)).reason == "SESSION_NOT_FOUND"


def test_many_are_settled_in_parts_so_that_others_need_not_wait_for_all(rig: Rig) -> None:
    keys = [SessionKey("t", f"s{number}") for number in range(40)]
    epochs = {key: rig.store.acquire(key, epoch_floor=0, new=NEW).epoch for key in keys}
    rig.store.away = True
    for key in keys:
        assert isinstance(rig.run(Release([Holding(key, epochs[key], 100.0)])), CarouselError)
    rig.later()
    left = [sum(rig.store.read(key).held for key in keys)]
    while left[-1]:
        rig.thread.run_pending()
        left.append(sum(rig.store.read(key).held for key in keys))
    assert left == [24, 8, 0]
