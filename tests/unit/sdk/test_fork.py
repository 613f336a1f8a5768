"""A process that forks with a live client: the child is refused by name at once, and opens its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from carousel.testing import FakeServer

PROGRAM = """
import gc, json, os, sys
import carousel

target = sys.argv[1]
client = carousel.Client(target, timeout_s=600)
session, other = client.session("sum"), client.session("letters")
batch = client.batch([session])
stream = session.stream([[1, 1]] * 20, ahead=4)
next(stream)
generation = client.generate("letters", "a", max_tokens=1_000_000)
within = other.generate("a", max_tokens=1_000_000)
next(generation), next(within)
calls = {
    "step": lambda: session.step([1, 1]),
    "batch.step": lambda: batch.step([[1, 1]]),
    "stream": lambda: next(stream),
    "new stream": lambda: next(session.stream([[1, 1]])),
    "replay": session.replay,
    "export": session.export,
    "info": session.info,
    "detach": session.detach,
    "close": session.close,
    "with": lambda: other.__exit__(None, None, None),
    "next": lambda: next(generation),
    "text": within.text,
    "generation.close": generation.close,
    "session.generate": lambda: other.generate("a").text(),
    "generate": lambda: client.generate("letters", "a").text(),
    "infer": lambda: client.infer("sum", [[1, 1]]),
    "models": client.models,
    "session": lambda: client.session("sum"),
    "attach": lambda: client.attach(session.id),
}
child = os.fork()
if child:
    _, status = os.waitpid(child, 0)
    assert session.step([0, 0])[0] >= 2, "the parent's session goes on"
    client.close()
    sys.exit(os.waitstatus_to_exitcode(status))
told = {}
for name, call in calls.items():
    try:
        call()
        told[name] = "nothing"
    except Exception as error:
        told[name] = type(error).__name__
client.close()
with carousel.Client(target) as mine, mine.session("sum") as session:
    told["a new client"] = session.step([1, 2]).tolist()
del generation, within, calls, stream
gc.collect()
print(json.dumps(told), flush=True)
"""


@pytest.fixture(scope="module")
def forked(request: pytest.FixtureRequest) -> subprocess.CompletedProcess[str]:
    from .support import MODELS

    with FakeServer(*MODELS) as fake:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, fake.target],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )


def test_every_call_in_a_forked_child_is_refused_by_name(
    forked: subprocess.CompletedProcess[str],
) -> None:
    told = json.loads(forked.stdout)
    told.pop("a new client")
    assert len(told) == 19
    assert set(told.values()) == {"ClientClosedError"}, told


def test_a_new_client_in_the_child_works(forked: subprocess.CompletedProcess[str]) -> None:
    assert json.loads(forked.stdout)["a new client"] == [3, 1]


def test_child_and_parent_end_in_order(forked: subprocess.CompletedProcess[str]) -> None:
    assert forked.returncode == 0, forked.stderr
    assert "Traceback" not in forked.stderr
    assert "ignored" not in forked.stderr
