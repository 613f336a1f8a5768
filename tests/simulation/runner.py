"""Runs schedules by the thousand on all cores: `make simulate ARGS='--schedules 100000'`."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

# Before torch is imported: one thread a worker, as many workers as cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from carousel_server.process.cores import usable_cores

from .quiet import hush
from .schedule import Verdict, run

_CHUNK = 100
"""Schedules that a worker runs at a time."""


@dataclass(slots=True)
class Summary:
    """What many schedules showed."""

    schedules: int = 0
    steps: int = 0
    events: int = 0
    virtual_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    failed: list[int] = field(default_factory=list)

    def add(self, verdict: Verdict) -> None:
        """Counts one."""
        self.schedules += 1
        self.steps += verdict.steps
        self.events += verdict.events
        self.virtual_s += verdict.virtual_s
        self.faults.update(verdict.faults)
        self.endings.update(verdict.endings)
        if verdict.failures:
            self.failed.append(verdict.seed)


def run_many(seeds: Sequence[int]) -> Summary:
    """Runs schedules in this process, one after the other, up to the first that fails."""
    summary = Summary()
    gc.disable()  # a schedule leaves little behind, and the collector takes a tenth of the time
    for seed in seeds:
        summary.add(run(seed))
        if summary.failed:
            break
    gc.enable()
    gc.collect()
    return summary


def _begin() -> None:
    """A worker has imported what it needs: nobody need look through that again for what is garbage."""
    hush()
    gc.freeze()


def run_on_all_cores(first: int, count: int) -> Iterator[Summary]:
    """Runs schedules in worker processes; summaries as they come."""
    seeds = iter(range(first, first + count))
    chunks = iter(lambda: tuple(islice(seeds, _CHUNK)), ())
    context = multiprocessing.get_context("spawn")
    with context.Pool(usable_cores(), initializer=_begin) as pool:
        yield from pool.imap_unordered(run_many, chunks)


def explain(seed: int) -> str:
    """A schedule again, with its trace: what happened, and how to repeat it."""
    verdict = run(seed, tracing=True)
    lines = [
        *verdict.trace,
        "",
        f"seed {seed}, faults: {', '.join(verdict.faults) or 'none'}",
        f"repeat: make simulate ARGS='--seed {seed}'",
        *(f"FAILED {failure}" for failure in verdict.failures),
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; exits with 1 if a schedule fails."""
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000, help="how many; default 10000")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seed", type=int, help="runs one schedule and prints its trace")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        text = explain(options.seed)
        print(text)
        return int("FAILED" in text)
    started, total = time.monotonic(), Summary()
    for part in run_on_all_cores(options.first, options.schedules):
        _merge(total, part)
        if part.failed:
            print(explain(part.failed[0]))
            return 1
        _show(total, options.schedules, time.monotonic() - started)
    print(f"\nfaults:  {_counts(total.faults)}\nendings: {_counts(total.endings)}")
    return 0


def _merge(total: Summary, part: Summary) -> None:
    total.schedules += part.schedules
    total.steps += part.steps
    total.events += part.events
    total.virtual_s += part.virtual_s
    total.faults += part.faults
    total.endings += part.endings
    total.failed += part.failed


def _show(total: Summary, wanted: int, seconds: float) -> None:
    sys.stdout.write(
        f"\r{total.schedules} of {wanted} schedules, {total.steps} steps, {total.events} events, "
        f"{total.virtual_s / 3600:.2f} virtual hours in {seconds:.0f} s"
    )
    sys.stdout.flush()


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common())


if __name__ == "__main__":
    raise SystemExit(main())
