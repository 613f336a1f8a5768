"""These tests run in sandboxes, and are skipped by name where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import sandbox

_FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _FOLDER in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(400))


@pytest.fixture(scope="session", autouse=True)
def _needs_a_sandbox() -> None:
    reason = sandbox.why_not()
    if reason:
        pytest.skip(reason)
