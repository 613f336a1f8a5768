"""The limit of open files is raised, never lowered."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from carousel_server.process.runtime import raise_file_limit


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    kept = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield kept
    resource.setrlimit(resource.RLIMIT_NOFILE, kept)


def test_a_low_limit_is_raised_to_what_is_allowed(limits: tuple[int, int]) -> None:
    hard = limits[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    raised = raise_file_limit()
    assert raised == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert raised == (65_536 if hard == resource.RLIM_INFINITY else min(65_536, hard))


def test_a_high_one_stays(limits: tuple[int, int]) -> None:
    raised = raise_file_limit()
    assert raise_file_limit() == raised
