"""`carousel demo`, which is what `make demo` runs, for a shorter time and on smaller models."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

import pytest
from e2e.command import carousel, started

from carousel.cli.demo.plan import CREWS, MODELS
from carousel_models import create, zoo_path


@pytest.fixture(scope="module")
def small_zoo(tmp_path_factory):
    """Random models with the names and shapes of the shipped ones: quick on any machine."""
    folder = tmp_path_factory.mktemp("zoo")
    writer, forecaster, tagger = MODELS
    create(writer, cell="lstm", hidden=16, input="tokens:256x8", dir=folder)
    create(forecaster, cell="gru", hidden=8, input="features:1", output=1, dir=folder)
    create(tagger, hidden=8, input="tokens:256x8", output=4, bidirectional=True, dir=folder)
    return folder


def marked_processes(group):
    """Ids of the demo's live processes: all inherit the marker in its environment."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                variables = (process / "environ").read_bytes().split(b"\0")
                if f"DEMO_TEST_MARK={group}".encode() in variables:
                    found.append(int(process.name))
    return found


def test_the_shipped_models_are_what_the_demo_needs():
    shipped = {path.name for path in zoo_path().iterdir() if path.is_dir()}
    assert set(MODELS) <= shipped


def test_every_crew_works_and_the_summary_counts_it(small_zoo):
    process = started("demo", "--models", str(small_zoo), "--seconds", "6")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    for crew in CREWS:
        done = re.search(rf"{crew.clients} clients {crew.title} with {crew.model}: ([\d,]+) ", out)
        assert done, out
        assert int(done[1].replace(",", "")) > 0
    assert "sessions together in a mean batch" in out
    assert "Next:\n  carousel demo --chaos" in out


def test_clients_go_on_while_the_server_is_killed(small_zoo):
    process = started("demo", "--models", str(small_zoo), "--seconds", "20", "--chaos")
    out, err = process.communicate()
    assert process.returncode == 0, err
    told = re.search(
        r"the server was killed (\d+) times, .*; ([\d,]+) sessions continued without loss", out
    )
    assert told, out
    assert "KILLED with signal 9" in out
    assert int(told[1]) >= 1
    assert int(told[2].replace(",", "")) >= 24, "every forecaster's session has survived"


def test_ctrl_c_ends_it_with_no_orphan_and_no_traceback(small_zoo, monkeypatch):
    mark = f"t{os.getpid()}"
    monkeypatch.setenv("DEMO_TEST_MARK", mark)
    process = started("demo", "--models", str(small_zoo), "--seconds", "60")
    with process:
        while "the server listens" not in process.stderr.readline():
            assert process.poll() is None
        process.stdout.readline()  # the first line of numbers: clients are at work
        assert len(marked_processes(mark)) == 1 + 1 + len(CREWS)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert marked_processes(mark) == []


def test_a_server_that_cannot_start_is_said_with_its_cause(small_zoo, tmp_path):
    for name in MODELS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    done = carousel("demo", "--models", str(tmp_path), "--seconds", "1")
    assert done.returncode == 1
    assert "manifest.json" in done.stderr or "package format" in done.stderr
    assert "Traceback" not in done.stderr
