"""kill -9 of a client that has journals, and of its server too: no input is lost or counts twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
from support.server import LSTM

import carousel

from .servers import Site
from .tracks import StepTrack, check_steps

ROOT = Path(__file__).parents[2]
SESSIONS, STEPS = 12, 250
KILLS = 4


class Life:
    """One process of the application; iterate over what it gets."""

    def __init__(self, target: str, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.chaos.app", target, str(folder)]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        self._process = subprocess.Popen(
            [*command, str(SESSIONS), str(STEPS)], cwd=ROOT, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pipesize=4096,
        )  # fmt: skip

    def __iter__(self) -> Iterator[str]:
        assert self._process.stdout is not None
        return iter(self._process.stdout)

    def kill(self) -> None:
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits for its end, which must be a good one, or ours."""
        if kind is not None:
            self.kill()
        _, trouble = self._process.communicate()
        assert kind is not None or self._process.returncode in (0, -9), trouble
        assert not trouble, trouble


class Ledger:
    """What the application has got in all its lives."""

    def __init__(self) -> None:
        self.tracks = [StepTrack(f"journal-{n}", "async", n, resets=True) for n in range(SESSIONS)]
        self._by_id = {track.id: track for track in self.tracks}
        # By session: what may come again, since the application had not asked for more after it.
        self._newest = {track.id: 1 for track in self.tracks}
        self._next: dict[str, int] = {}

    def begins(self) -> None:
        """A new life, which knows nothing of what was got before."""
        self._next.clear()

    def got(self, line: str) -> None:
        """One output of one session: the next one, or one of the newest again at a life's beginning."""
        session_id, seq, first, data = line.split()
        track, at = self._by_id[session_id], int(seq)
        output = np.frombuffer(bytes.fromhex(data), "<f4")
        known = self._next.get(session_id)
        if known is None:
            assert self._newest[session_id] <= at <= track.count + 1, f"{session_id} begins at {at}"
        else:
            assert at == known, f"{session_id}: {at} came, but {known} is next"
        self._next[session_id], self._newest[session_id] = at + 1, int(first)
        if at <= track.count:
            np.testing.assert_array_equal(output, track.parts[at - 1][0])
        else:
            track.got(output[None])

    @property
    def done(self) -> bool:
        """Everything has come."""
        return all(track.count == STEPS for track in self.tracks)


def test_a_client_that_is_killed_goes_on_with_its_journals(
    models_dir: Path, sqlite: str, tmp_path: Path, package: Path, quiet: str
) -> None:
    rng = random.Random(3)
    ledger = Ledger()
    (tmp_path / "journals").mkdir()
    with Site(models_dir, sqlite) as site:
        site.start()
        for number in range(KILLS + 1):
            last, server_too = number == KILLS, number % 2 == 1
            lines_to_live = rng.randrange(1, SESSIONS * STEPS // (KILLS + 2))
            ledger.begins()
            with Life(site.target, tmp_path / "journals") as life:
                for told, line in enumerate(life, 1):
                    ledger.got(line)
                    if told == lines_to_live and not last:
                        life.kill()
                        if server_too:
                            site.kill()
            if server_too and not last:
                site.start()
        assert ledger.done
        with carousel.Client(site.target) as client:
            assert all(client.session_info(t.id).applied == STEPS for t in ledger.tracks)
            assert sum(info.model == LSTM for info in client.sessions()) == SESSIONS
    check_steps(ledger.tracks, package, quiet)
