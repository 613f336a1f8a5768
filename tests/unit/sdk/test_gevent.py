"""Under gevent a client works with gRPC's own hook, and is refused by name without it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from carousel.testing import FakeServer

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gevent") is None, reason="gevent is not installed"
)

PROGRAM = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
import carousel
if sys.argv[2] == "hook":
    from grpc.experimental import gevent as hook
    hook.init_gevent()
def use(place):
    with client.session("sum") as session:
        return float(session.steps([[1, 0]] * 5)[-1, 0]) + place
try:
    with carousel.Client(sys.argv[1]) as client:
        jobs = [gevent.spawn(use, place) for place in range(10)]
        gevent.joinall(jobs, raise_error=True)
        print([job.value for job in jobs])
except carousel.EventLoopError as error:
    print(error)
"""


def run(fake: FakeServer, how: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, fake.target, how],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_sessions_run_in_greenlets_with_the_hook(fake: FakeServer) -> None:
    assert run(fake, "hook") == f"{[float(5 + place) for place in range(10)]}\n"


def test_without_the_hook_the_client_says_what_is_missing(fake: FakeServer) -> None:
    told = run(fake, "no hook")
    assert "EVENT_LOOP: gevent has patched" in told
    assert "grpc.experimental.gevent.init_gevent()" in told
