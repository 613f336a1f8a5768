"""Replicas that die, hang, never start and end, under a real supervisor with small times."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.signals import handlers_kept

from carousel_server.process.config import Settings
from carousel_server.process.supervised import Pace, Replica, said
from carousel_server.process.supervisor import Supervisor, target_of

PROGRAM = Path(__file__).with_name("replica_program.py")
QUICK = Pace(
    first_pause_s=0.01, longest_pause_s=0.05, most_failures=4,
    check_every_s=0.05, check_within_s=60.0, end_within_s=60.0,
)  # fmt: skip
WITHIN_S = 120.0


class Site:
    """A supervisor of programs, and what they did."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capfd = capfd
        self.out = ""

    def acts(self, *each: str) -> None:
        """What the lives of each replica do, separated by commas."""
        for number, lives in enumerate(each):
            text = "\n".join(lives.split(","))
            (self.folder / f"{number}.acts").write_text(text)

    @property
    def lives(self) -> list[tuple[int, int]]:
        """The number and process id of every life so far, in order of their starts."""
        path = self.folder / "lives"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(n), int(pid)) for n, pid in (line.split() for line in lines)]

    @asynccontextmanager
    async def run(self, replicas: int, pace: Pace = QUICK) -> AsyncIterator[asyncio.Task[int]]:
        """Runs a supervisor until its end, which the test must cause."""
        plan = [
            Settings(port=0, metrics_port=0, drain_timeout_s=1.0, device="cpu", replicas=replicas)
        ] * replicas
        command = (sys.executable, str(PROGRAM), str(self.folder))
        task = asyncio.create_task(Supervisor(plan, command, pace).run())
        yield task
        async with asyncio.timeout(WITHIN_S):
            await task
        for _, pid in self.lives:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits until something holds."""
        async with asyncio.timeout(WITHIN_S):
            while not condition():  # noqa: ASYNC110 - of a process, or of the log
                await asyncio.sleep(0.02)

    def said(self) -> str:
        """What was printed so far."""
        self.out += self._capfd.readouterr().out
        return self.out

    async def ready(self) -> dict[str, object]:
        """The line of the supervisor, as soon as it is printed."""
        await self.until(lambda: '"target"' in self.said())
        (line,) = (line for line in self.out.splitlines() if '"target"' in line)
        facts: dict[str, object] = json.loads(line)
        return facts


@pytest.fixture
def site(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Iterator[Site]:
    caplog.set_level("INFO")
    with handlers_kept():
        yield Site(tmp_path, capfd)


def tell(number: signal.Signals = signal.SIGTERM) -> None:
    """A signal to the supervisor, which runs in this process."""
    os.kill(os.getpid(), number)


async def test_the_ready_line_has_all_targets(site: Site) -> None:
    site.acts("serve", "serve")
    async with site.run(2) as ended:
        facts = await site.ready()
        assert facts["target"] == "127.0.0.1:6000,127.0.0.1:6001"
        assert (facts["event"], facts["pid"], facts["port"]) == ("ready", os.getpid(), 6000)
        replicas = facts["replicas"]
        assert isinstance(replicas, list)
        assert [(one["port"], one["device"]) for one in replicas] == [(6000, "cpu"), (6001, "cpu")]
        assert [one["pid"] for one in replicas] == [pid for _, pid in site.lives]
        assert "a line of a custom module" in site.out
        tell()
    assert ended.result() == 0
    assert len(site.lives) == 2


async def test_a_replica_that_is_killed_is_started_again_on_its_ports(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.acts("serve", "serve")
    async with site.run(2) as ended:
        await site.ready()
        (first, kept), (second, killed) = site.lives
        os.kill(killed, signal.SIGKILL)
        await site.until(lambda: "replica 1 is ready again" in caplog.text)
        assert "replica 1 on port 6001 has ended (SIGKILL): it is started again" in caplog.text
        assert [number for number, _ in site.lives] == [first, second, 1]
        os.kill(kept, 0)
        tell()
    assert ended.result() == 0


@pytest.mark.parametrize(("acts", "lives"), [(("exit 2", "serve"), 1), (("serve", "exit 2"), 2)])
async def test_a_replica_that_cannot_start_ends_all_with_its_code(
    site: Site, caplog: pytest.LogCaptureFixture, acts: tuple[str, str], lives: int
) -> None:
    """Nothing but the first one is started if that fails already."""
    site.acts(*acts)
    async with site.run(2) as ended:
        pass
    assert ended.result() == 2
    assert len(site.lives) == lives
    assert "has ended (exit code 2) before all were ready" in caplog.text


async def test_a_replica_that_does_not_start_again_is_given_up_by_name(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.acts("serve", "serve,exit 3")
    async with site.run(2) as ended:
        await site.ready()
        (_, kept), (_, killed) = site.lives
        os.kill(killed, signal.SIGKILL)
        await site.until(lambda: "cannot be started" in caplog.text)
        assert "replica 1 cannot be started: it has ended 4 times, at last with exit code 3" in (
            caplog.text
        )
        os.kill(kept, 0)
        tell()
    assert ended.result() == 1
    assert [number for number, _ in site.lives] == [0, 1, 1, 1, 1]


async def test_a_supervisor_without_replicas_ends(site: Site) -> None:
    site.acts("serve,exit 3", "crash 4")
    async with site.run(2) as ended:
        await site.ready()
        os.kill(site.lives[0][1], signal.SIGKILL)
    assert ended.result() == 1


async def test_a_replica_that_does_not_answer_is_killed_and_started_again(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.acts("serve", "deaf,serve")
    pace = QUICK._replace(check_within_s=1.0)
    async with site.run(2, pace) as ended:
        await site.ready()
        await site.until(lambda: "replica 1 is ready again" in caplog.text)
        assert "replica 1 has missed 3 checks: it is killed" in caplog.text
        tell()
    assert ended.result() == 0


async def test_a_replica_that_is_stopped_is_killed_too(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.acts("serve", "serve")
    async with site.run(2, QUICK._replace(check_within_s=1.0)) as ended:
        await site.ready()
        os.kill(site.lives[1][1], signal.SIGSTOP)
        await site.until(lambda: "replica 1 is ready again" in caplog.text)
        tell()
    assert ended.result() == 0


async def test_a_replica_that_does_not_end_is_killed(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.acts("serve", "stubborn")
    async with site.run(2, QUICK._replace(end_within_s=0.2)) as ended:
        await site.ready()
        tell()
        tell()
    assert ended.result() == 1
    assert "replica 1 has not ended within" in caplog.text


async def test_a_signal_before_all_are_ready_ends_them(site: Site) -> None:
    site.acts("serve", "serve")
    async with site.run(2) as ended:
        await site.until(lambda: site.lives)
        tell(signal.SIGINT)
    assert ended.result() == 0
    assert '"target"' not in site.said()


async def test_sighup_restarts_one_after_the_other(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.acts("serve", "serve", "serve")
    async with site.run(3) as ended:
        await site.ready()
        before = site.lives
        tell(signal.SIGHUP)
        tell(signal.SIGHUP)
        await site.until(lambda: "all replicas are restarted" in caplog.text)
        assert [number for number, _ in site.lives[3:]] == [0, 1, 2]
        said_in_order = [r.message for r in caplog.records if "is ready again" in r.message]
        assert [line.split()[1] for line in said_in_order] == ["0", "1", "2"]
        assert not {pid for _, pid in before} & {pid for _, pid in site.lives[3:]}
        tell()
    assert ended.result() == 0


async def test_a_restart_stops_at_a_replica_that_does_not_come_back(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.acts("serve,exit 2", "serve")
    async with site.run(2) as ended:
        await site.ready()
        tell(signal.SIGHUP)
        await site.until(lambda: "replica 0 has not started again: the others go on" in caplog.text)
        assert [number for number, _ in site.lives].count(1) == 1
        tell()
    assert ended.result() in (0, 1), "1 if replica 0 was given up by then"


async def test_a_program_that_is_missing_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with handlers_kept():
        plan = [Settings(port=0, metrics_port=0)] * 2
        code = await Supervisor(plan, (str(tmp_path / "none"),), QUICK).run()
    assert code == 1
    assert "replica 0 cannot be started" in caplog.text


async def test_the_program_of_these_tests_ends_with_its_supervisor(site: Site) -> None:
    """Otherwise a test run that is killed would leave it behind."""
    site.acts("stubborn")
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), str(site.folder), "0", "1",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'{"port": 0, "metrics_port": 0}\n')
    assert await process.stdout.readline()
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), WITHIN_S) == 1


async def test_pauses_grow_and_a_steady_life_forgets_them() -> None:
    pace = Pace()
    one = Replica(0, Settings(), pace)
    pauses = [one.died(0.0) for _ in range(9)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    one.began({"port": 1, "metrics_port": 2}, 100.0)
    assert one.died(100.0 + pace.steady_s) == 0.5
    one.began({"port": 1, "metrics_port": 2}, 200.0)
    assert one.died(200.0 + pace.steady_s / 2) == 1.0
    assert (one.settings.port, one.settings.metrics_port) == (1, 2)
    assert [one.died(0.0) for _ in range(8)][-1] is None
    assert one.given_up


def test_ends_have_names() -> None:
    assert [said(code) for code in (0, 3, -9, -250)] == [
        "exit code 0", "exit code 3", "SIGKILL", "signal 250",
    ]  # fmt: skip


def test_a_target_is_an_address_that_clients_can_use() -> None:
    assert target_of(Settings(port=5, replicas=2)) == "127.0.0.1:5"
    assert target_of(Settings(port=5, advertise="a.b:6")) == "a.b:6"
    everywhere = target_of(Settings(host="0.0.0.0", port=5, insecure=True))
    assert everywhere.endswith(":5")
    assert not everywhere.startswith("0.0.0.0")
