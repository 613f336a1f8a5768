"""The figure of the HTTP door: both servers answer what they get, and the load knows a refusal."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from bench import http_door, http_echo, processes
from bench.models import WIDTH
from bench.posting import Posts
from bench.report import Summary


def posted(posts: Posts) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.posting", json.dumps(asdict(posts))]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize("form", ["1 rows as JSON", "64 rows as bytes"])
def test_both_servers_answer_the_same_bodies(form: str) -> None:
    kind, body = http_door.bodies()[form]
    for server in (processes.instant_server("http"), processes.http_echo()):
        with server as (_, address):
            posts = Posts(address, http_echo.PATH, kind, body, 0.2, connections=2)
            done = posted(posts)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["requests_per_s"] > 0
            refused = posted(Posts(address, "/nowhere", kind, body, 0.2, connections=1))
            assert "404" in refused.stderr


def test_the_bodies_are_the_rows_that_they_say() -> None:
    kind, body = http_door.bodies()["64 rows as bytes"]
    assert (kind, len(body.encode("latin-1"))) == ("application/octet-stream", 64 * WIDTH * 4)
    _, numbers = http_door.bodies()["1 rows as JSON"]
    assert np.asarray(json.loads(numbers)["inputs"]).shape == (1, WIDTH)


def test_the_ratio_is_of_processor_time() -> None:
    figures: Summary = {
        f"{who}: {form}": {"cpu_us": {"median": us, "min": us, "max": us, "rounds": 1}}
        for who, us in (("carousel", 90.0), ("echo", 60.0))
        for form in http_door.bodies()
    }
    found = dict(http_door.ratios(figures))
    assert set(found.values()) == {1.5}
    assert all("at most 1.3" in name for name in found)
