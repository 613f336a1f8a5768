"""`carousel serve --replicas N`: one command, several processes, one store, and no process left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from e2e.command import carousel as command
from e2e.command import started
from parity import reference
from support.server import FEATURES, LSTM

import carousel

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
"""A command is three processes that import torch in turn, or more."""

WITHIN_S = 120.0
ROWS = np.random.default_rng(13).normal(size=(60, FEATURES)).astype(np.float32)


class Serving:
    """A command with replicas, and its processes."""

    def __init__(self, process: subprocess.Popen[str], ready: dict[str, Any]) -> None:
        self.process = process
        self.ready = ready
        self.all = descendants(process.pid)

    def target(self, number: int) -> str:
        """The address of one replica."""
        return str(self.ready["target"]).split(",")[number]

    def kill(self, number: int) -> None:
        """kill -9 of a replica, as it was at the start."""
        os.kill(self.ready["replicas"][number]["pid"], signal.SIGKILL)


@contextmanager
def serving(models: Path, store: Path, replicas: int = 2, **settings: object) -> Iterator[Serving]:
    """The command on free ports. Whatever happens, none of its processes remains."""
    given = {
        "port": 0,
        "metrics-port": 0,
        "http-port": "off",
        "device": "cpu",
        "lease-ttl-s": 2,
        "park-after-s": 1,
        **settings,
    }
    flags = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    process = started(
        "serve", "--models", str(models), "--replicas", str(replicas), "--store", f"sqlite:{store}", *flags
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        if not line:
            raise AssertionError(process.stderr.read())
        site = Serving(process, json.loads(line))
        try:
            yield site
        finally:
            seen = {*site.all, *descendants(process.pid)}
            process.kill()
            gone(seen)


class Log:
    """Reads the log of a command while it runs, so that its pipe is never full."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._process = process
        self._grown = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._grown:
                self.lines.append(line)
                self._grown.notify_all()

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def wait_for(self, text: str, within_s: float = WITHIN_S) -> None:
        """Returns once the log has a text."""
        with self._grown:
            assert self._grown.wait_for(lambda: text in self.text, within_s), self.text

    def end(self) -> str:
        """The whole log, once the command has ended."""
        self._thread.join(WITHIN_S)
        assert not self._thread.is_alive(), "a process has the pipe still open"
        return self.text


def client_of(target: str) -> carousel.Client:
    """A client that is patient, because the machine may be busy."""
    patient = carousel.RetryPolicy(reconnect_s=WITHIN_S)
    return carousel.Client(target, timeout_s=WITHIN_S, retries=patient)


def descendants(pid: int) -> list[int]:
    """The processes below a process, at this moment."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found, new = [], [pid]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        found += new
    return found


def gone(pids: set[int]) -> None:
    """Waits until processes have ended. Zombies have."""
    give_up_s = time.monotonic() + WITHIN_S
    while left := {pid for pid in pids if is_running(pid)}:
        assert time.monotonic() < give_up_s, f"orphans: {left}"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
def expected(models_dir: Path) -> np.ndarray:
    """The outputs of a session that has the rows in order."""
    return np.asarray(reference.run(models_dir / LSTM, ROWS)["y"])


def test_a_session_goes_on_after_a_kill_and_at_the_other_replica(
    models_dir: Path, store: Path, expected: np.ndarray
) -> None:
    with serving(models_dir, store) as site:
        with client_of(site.target(0)) as first:
            session = first.session(LSTM, session_id="s", durability="sync")
            found = [session.steps(ROWS[:20])]
            site.kill(0)
            found.append(session.steps(ROWS[20:40]))
            session.detach()
        with client_of(site.target(1)) as other:
            session = other.attach("s")
            found.append(session.steps(ROWS[40:]))
            session.close()
        np.testing.assert_allclose(np.concatenate(found), expected, atol=2e-5)
        site.process.send_signal(signal.SIGTERM)
        _, log = site.process.communicate(timeout=WITHIN_S)
        assert site.process.returncode == 0
        assert f"replica 0 on port {site.target(0).rpartition(':')[2]} has ended (SIGKILL)" in log
        assert "replica=1" in log
        assert "Traceback" not in log


def test_nothing_remains_of_a_supervisor_that_is_killed_and_the_next_one_has_the_sessions(
    models_dir: Path, store: Path, expected: np.ndarray
) -> None:
    """The replicas end, one of them although it is stopped, and so do their front ends."""
    with serving(models_dir, store, front_ends=1) as site:
        assert len(site.all) == 4
        with client_of(site.target(1)) as client:
            session = client.session(LSTM, session_id="s", durability="sync")
            found = [session.steps(ROWS[:30])]
            os.kill(site.ready["replicas"][0]["pid"], signal.SIGSTOP)
            site.process.kill()
            gone(set(site.all))
    with serving(models_dir, store) as site, client_of(site.target(0)) as client:
        found.append(client.attach("s").steps(ROWS[30:]))
    np.testing.assert_allclose(np.concatenate(found), expected, atol=2e-5)


def test_ctrl_c_ends_all_in_good_order(models_dir: Path, store: Path) -> None:
    with serving(models_dir, store, log_level="warning") as site:
        for one in site.ready["replicas"]:
            with urllib.request.urlopen(f"http://127.0.0.1:{one['metrics_port']}/readyz") as reply:
                assert reply.status == 200
        os.killpg(site.process.pid, signal.SIGINT)  # as a terminal does it
        out, log = site.process.communicate(timeout=WITHIN_S)
        assert (site.process.returncode, out, log) == (0, "", "")
        gone(set(site.all))


def test_a_setting_that_is_wrong_is_said_once(models_dir: Path) -> None:
    flags = (
        "--models",
        str(models_dir),
        "--device",
        "cpu",
        "--port",
        "0",
        "--metrics-port",
        "0",
        "--http-port",
        "off",
    )
    process = started("serve", *flags, "--replicas", "2", "--store", "memory")
    out, log = process.communicate(timeout=WITHIN_S)
    assert (process.returncode, out) == (2, "")
    assert log.count("replicas cannot share it") == 1
    assert log.count("fix: set --store sqlite:FILE") == 1
    assert "replica 0" not in log, "it is refused before any replica starts"


def test_replicas_that_cannot_be_are_said() -> None:
    for given, said in (("none", "setting replicas"), ("300", "less than or equal to 256")):
        done = command("serve", "--replicas", given)
        assert done.returncode == 2
        assert said in done.stderr
    done = command("serve", "--replicas", "2", "--port", "65535", "--device", "cpu")
    assert (done.returncode, "lower port" in done.stderr) == (2, True)


async def test_fifty_sessions_live_through_a_kill_under_load_and_none_is_left_behind(
    models_dir: Path, store: Path
) -> None:
    """One client with both targets. Each output is that of the session's own steps, and no error is seen."""
    rng = np.random.default_rng(50)
    inputs = rng.normal(size=(50, 40, FEATURES)).astype(np.float32)
    busy, killed = asyncio.Event(), asyncio.Event()
    outputs: dict[int, list[np.ndarray]] = {number: [] for number in range(50)}

    async def drive(client: carousel.AsyncClient, number: int) -> None:
        session = await client.session(LSTM, session_id=f"s{number}", durability="async")
        for at in range(0, 40, 4):
            if at == 36:
                await killed.wait()  # so that every session steps after the kill too
            outputs[number].append(await session.steps(inputs[number, at : at + 4]))
            if sum(map(len, outputs.values())) == 150:  # of 500
                busy.set()
        await session.close()

    async def kill_in_the_middle(site: Serving) -> None:
        await busy.wait()
        site.kill(1)
        killed.set()

    with serving(models_dir, store) as site:
        patient = carousel.RetryPolicy(reconnect_s=WITHIN_S)
        target = str(site.ready["target"])
        async with carousel.AsyncClient(target, timeout_s=WITHIN_S, retries=patient) as client:
            work = [drive(client, number) for number in range(50)]
            await asyncio.gather(kill_in_the_middle(site), *work)
        for number, pieces in outputs.items():
            expected = np.asarray(reference.run(models_dir / LSTM, inputs[number])["y"])
            np.testing.assert_allclose(np.concatenate(pieces), expected, atol=2e-5)
        site.process.send_signal(signal.SIGTERM)
        _, log = await asyncio.to_thread(site.process.communicate, timeout=WITHIN_S)
        assert site.process.returncode == 0
        assert "replica 1 on port" in log
        assert "Traceback" not in log
        gone(set(site.all))


async def test_sighup_restarts_all_under_sessions_that_step_on(
    models_dir: Path, store: Path
) -> None:
    """Each replica hands its sessions over and ends, one after the other. No step is lost."""
    begun, over = asyncio.Semaphore(0), asyncio.Event()

    async def drive(client: carousel.AsyncClient, number: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(number)
        session = await client.session(LSTM, session_id=f"s{number}", durability="async")
        inputs: list[np.ndarray] = []
        outputs: list[np.ndarray] = []
        while not over.is_set():
            inputs.append(rng.normal(size=FEATURES).astype(np.float32))
            outputs.append(await session.step(inputs[-1]))
            if len(outputs) == 1:
                begun.release()
            await asyncio.sleep(0.05)  # a source of 20 frames a second
        last = rng.normal(size=(8, FEATURES)).astype(np.float32)
        outputs += list(await session.steps(last))
        await session.close()
        return np.stack([*inputs, *last]), np.stack(outputs)

    async def restart(site: Serving, log: Log) -> None:
        try:
            for _ in range(20):
                await begun.acquire()
            site.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(log.wait_for, "all replicas are restarted", 400.0)
        finally:
            over.set()

    with serving(models_dir, store, park_after_s=60) as site:
        log = Log(site.process)
        patient = carousel.RetryPolicy(reconnect_s=WITHIN_S)
        target = str(site.ready["target"])
        async with carousel.AsyncClient(target, timeout_s=WITHIN_S, retries=patient) as client:
            work = [drive(client, number) for number in range(20)]
            driven, _ = await asyncio.gather(asyncio.gather(*work), restart(site, log))
            moves = client.statistics().moves
        for inputs, outputs in driven:
            expected = np.asarray(reference.run(models_dir / LSTM, inputs)["y"])
            np.testing.assert_allclose(outputs, expected, atol=2e-5)
        assert moves >= len(driven), "each was handed over, by replica 1 at the latest"
        site.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(site.process.wait, WITHIN_S) == 0
        text = await asyncio.to_thread(log.end)
        assert all(f"replica {number} is ready again" in text for number in (0, 1))
        assert "Traceback" not in text
