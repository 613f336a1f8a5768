"""One run: a cluster, its clients, the faults of a schedule, and the judgement."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from bench import machine
from support.server import LSTM, ServerProcess, make_models

from tests.chaos.load import Shape
from tests.chaos.tracks import Track

from .clients import ApplicationError
from .cluster import Cluster, Form
from .faults import BY_NAME, FAULTS, LEASE_S
from .oracle import Verdict, judge_all
from .records import Record
from .report import QUIET, Report, during, failures
from .schedule import Event, events

SHORT = Form(
    replicas=3, spare=0, shards=3, clients=2, levels=("async", "sync"),
    shape=Shape(batches=1, batch_sessions=8, steppers=1, stepper_sessions=4, streamers=1, tasks=12,
                texts=1, pause_s=0.1),
    lease_ttl_s=LEASE_S, quiet_s=1.0, steps=0, outsiders=2,
    faults=("kill -9 of a replica", "replica cut from everything", "SIGSTOP beyond the lease",
            "kill -9 of a primary of the store", "drain and restart"),
)  # fmt: skip
"""For `make test`: once the faults of different kinds, on few sessions."""

LONG = Form(
    replicas=3, spare=2, shards=3, clients=4, levels=("async", "sync"),
    shape=Shape(batches=2, batch_sessions=16, steppers=1, stepper_sessions=6, streamers=4, tasks=73,
                texts=3, pause_s=0.1, batch_steps=16, task_steps=8),
    lease_ttl_s=LEASE_S, quiet_s=20.0, steps=1_000_000, outsiders=7,
)  # fmt: skip
"""For `make cluster`: 500 sessions and at least a million steps."""

FORMS = {"short": SHORT, "long": LONG}


class RunError(Exception):
    """A run has failed; the text says by what, and how to repeat it."""


def run(form: Form, seed: int) -> Report:
    """Runs one form inside a sandbox, and returns its report.

    Raises:
        RunError: an application got an error, or an output was lost, doubled or wrong.
    """
    report = Report(dict(machine.facts("cpu")), _setup(form, seed))
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(dir="/run") as name:  # which ends with the sandbox
        folder = Path(name)
        models = make_models(folder / "models")
        record = _disturbed(form, seed, models, folder, report)
        seconds = time.monotonic() - began_s
        verdicts = _verdicts(record.tracks, models)
    report.judge(record, verdicts, seconds)
    wrong = failures(verdicts)
    if wrong:
        raise RunError("\n".join([f"seed {seed}: {len(wrong)} sessions differ", *wrong[:20]]))
    return report


def _disturbed(form: Form, seed: int, models: Path, folder: Path, report: Report) -> Record:
    event: Event | None = None
    with Cluster(form, models, folder) as cluster:
        try:
            cluster.start_clients()
            _say(f"{cluster.sessions} sessions at work")
            _feel(cluster, report, None)
            for event in _schedule(form, seed, cluster):
                _feel(cluster, report, event)
            return cluster.finish()
        except ApplicationError as error:
            what = f"{dict(error.names)}\n{error}\n{cluster.told}"
            raise RunError(f"seed {seed}, {during(event)}: {what}") from error
        except AssertionError as error:
            raise RunError(f"seed {seed}, {during(event)}: {error}\n{cluster.told}") from error


def _feel(cluster: Cluster, report: Report, event: Event | None) -> None:
    """One fault, until each session goes on."""
    began_s = time.monotonic()
    if event is None:
        cluster.hold(cluster.form.quiet_s)
    else:
        BY_NAME[event.name].run(cluster, event)
    cluster.advance()
    ended_s = time.monotonic()
    report.felt(QUIET if event is None else event.name, began_s, ended_s)
    _say(f"{cluster.steps:>9,} steps  {ended_s - began_s:5.1f} s  {event or QUIET}")


def _schedule(form: Form, seed: int, cluster: Cluster) -> Iterator[Event]:
    """A whole round, and more faults until there are enough steps."""
    kinds = [BY_NAME[name].kind for name in form.faults] or [fault.kind for fault in FAULTS]
    targets = {
        "replica": form.replicas, "shard": form.shards or 1, "client": form.clients, "all": 1
    }  # fmt: skip
    endless = events(seed, kinds, targets)
    yield from islice(endless, len(kinds))
    while cluster.steps < form.steps:
        yield next(endless)


def _verdicts(tracks: list[Track], models: Path) -> list[Verdict]:
    with ServerProcess(models, strict=True, max_batch=128, slots=1024) as quiet:
        return list(judge_all(tracks, models / LSTM, quiet.target))


def _setup(form: Form, seed: int) -> dict[str, object]:
    replicas = f"{form.replicas} to {form.replicas + form.spare}" if form.spare else form.replicas
    store = f"a Redis Cluster of {form.shards} primaries" if form.shards else "one Redis"
    return {
        "seed": seed,
        "replicas": replicas,
        "store": store,
        "clients": form.clients,
        "outsiders": form.clients * form.outsiders,
    }


def _say(text: str) -> None:
    print(text, flush=True)
