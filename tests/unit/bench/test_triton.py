"""Triton's tools without Triton: what is asked of perf_analyzer, what is read from it, when to restart."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from bench.triton import Load, LoadFailedError, LoadResult, TritonServer, load, run_load, unpacked
from bench.triton import server as servers
from bench.triton import wheels as wheel_files
from bench.triton.wheels import Unpacked

from carousel_models import create

REPORT = """\
Concurrency,Inferences/Second,Client Send,p50 latency,p90 latency,p95 latency,p99 latency
8,3090.16,5,2453,2935,3081,3531
"""
RESULT = LoadResult(3090.16, 2.453, 2.935, 3.081, 3.531)
CLOSED = Load("m", 2, concurrency=64)


def test_a_report_becomes_steps_per_second_and_milliseconds():
    assert load.parse(REPORT) == RESULT


def test_a_report_without_a_line_is_a_failure():
    with pytest.raises(LoadFailedError, match="empty"):
        load.parse(REPORT.splitlines()[0])


def fake_analyzer(folder: Path, script: str) -> Unpacked:
    """A program in perf_analyzer's place."""
    parts = Unpacked(folder)
    parts.perf_analyzer.parent.mkdir(parents=True)
    parts.perf_analyzer.write_text(f"#!{sys.executable}\nimport sys, time\n{script}")
    parts.perf_analyzer.chmod(0o755)
    return parts


WRITES = f"open(sys.argv[sys.argv.index('-f') + 1], 'w').write({REPORT!r})\n"


def test_the_analyzer_is_run_and_read(tmp_path):
    assert run_load(fake_analyzer(tmp_path, WRITES), "host:1", CLOSED) == RESULT


def test_its_last_words_are_the_error(tmp_path):
    parts = fake_analyzer(tmp_path, "sys.exit('no such model')")
    with pytest.raises(LoadFailedError, match="no such model"):
        run_load(parts, "host:1", CLOSED)


def test_a_load_on_a_dead_server_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "_WATCH_EVERY_S", 0.01)
    parts = fake_analyzer(tmp_path, "time.sleep(600)")
    with pytest.raises(LoadFailedError, match="the server died"):
        run_load(parts, "host:1", CLOSED, serving=lambda: False)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (CLOSED, ["--concurrency-range", "64"]),
        (CLOSED, ["--streaming"]),
        (Load("m", 2, rate_per_s=500.0), ["--request-rate-range", "500"]),
        (Load("m", 2, rate_per_s=500.0), ["--request-distribution", "poisson"]),
    ],
)
def test_what_is_asked_for_is_told(asked, told):
    text = " ".join(load._arguments("host:1", asked))
    assert " ".join(told) in text


def test_unary_loads_do_not_stream():
    assert "--streaming" not in load._arguments("host:1", Load("m", 2, streaming=False))


# -- the server


@pytest.fixture
def triton(tmp_path):
    create("m", cell="lstm", hidden=4, input="features:2", output=3, dir=tmp_path)
    return TritonServer(Unpacked(tmp_path), tmp_path / "m", tmp_path / "triton", sequences=77)


def test_the_model_repository_follows_from_the_package(triton, tmp_path):
    folder = tmp_path / "triton/models/m"
    config = (folder / "config.pbtxt").read_text()
    assert "dims: [ 2 ]" in config
    assert "dims: [ 3 ]" in config
    assert "max_candidate_sequences: 77" in config
    assert str(tmp_path / "m" / "model.safetensors") in config
    compile((folder / "1/model.py").read_text(), "model.py", "exec")


def test_a_crash_is_counted_and_the_load_is_run_again(triton, monkeypatch):
    answers = [LoadFailedError("gone"), LoadFailedError("gone"), RESULT]

    def run(*_):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(servers, "run_load", run)
    monkeypatch.setattr(
        triton, "_start", lambda: None
    )  # so it is never alive: every failure a crash
    assert triton.measure(CLOSED) == RESULT
    assert triton.crashes == 2


def test_a_load_that_fails_on_a_healthy_server_is_no_crash(triton, monkeypatch):
    def run(*_):
        raise LoadFailedError("unknown model")

    monkeypatch.setattr(servers, "run_load", run)
    monkeypatch.setattr(triton, "alive", lambda: True)
    with pytest.raises(LoadFailedError, match="unknown model"):
        triton.measure(CLOSED)
    assert triton.crashes == 0


# -- the wheels


def test_wheels_are_unpacked_once_and_arranged(tmp_path, monkeypatch):
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    wheel = tmp_path / "any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tritonclient-2.50.0.data/data/bin/perf_analyzer", "client")
        archive.writestr("pytriton/tritonserver/bin/tritonserver", "server")
        archive.writestr("pytriton/tritonserver/backends/python/libtriton_python.so", "")
        stub = f"pytriton/tritonserver/python_backend_stubs/{version}/triton_python_backend_stub"
        archive.writestr(stub, "stub")
        archive.writestr("nvidia_pytriton.libs/libb64-1.so.0d", "")
        archive.writestr("nvidia_pytriton.libs/libcudart-2.so.12.6", "")
    downloads = []

    def download(folder):
        downloads.append(folder)
        return [wheel]

    monkeypatch.setattr(wheel_files, "_download", download)
    cache = tmp_path / "cache"
    parts = unpacked(cache)
    assert parts.stub.read_text() == "stub"
    assert (parts.client_libraries / "libb64.so.0d").resolve().name == "libb64-1.so.0d"
    unpacked(cache)
    assert len(downloads) == 1
    moved = wheel_files.Unpacked(parts.root.rename(parts.root.with_name("moved")))
    assert (moved.client_libraries / "libb64.so.0d").exists(), "the folder cannot be moved"
    shutil.rmtree(moved.root)


def test_a_failed_download_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    def fail(_folder):
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(wheel_files, "_download", fail)
    with pytest.raises(subprocess.CalledProcessError):
        unpacked(tmp_path / "cache")
    assert not (tmp_path / "cache/.complete").exists()
