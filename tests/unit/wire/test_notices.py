"""One line for many refusals."""

from __future__ import annotations

import logging

import pytest

from carousel_server.wire.call_limits import Notices


def test_a_flood_is_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    times_s = iter([0.0, 0.1, 4.9, 5.1, 5.2])
    notices = Notices(logging.getLogger("flood"), lambda: next(times_s))
    for number in range(4):
        notices.warn("FULL", "refused", f"peer {number}")
    notices.warn("LATE", "timed out", "peer 4")
    assert [r.getMessage() for r in caplog.records] == [
        "refused",
        "refused; 2 more since the last such line",
        "timed out",
    ]
    assert [(r.kind, r.peer) for r in caplog.records] == [  # type: ignore[attr-defined]
        ("FULL", "peer 0"),
        ("FULL", "peer 3"),
        ("LATE", "peer 4"),
    ]
