"""The tables of docs/guides/scaling.md, from the committed results; `--check` compares.

python -m bench.placing.tables [--check]
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from carousel.cli.sizing import COSTS, Load, Site, size

from .churn import LAGS_S
from .figure import REPLICAS
from .schemes import SCHEMES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guides" / "scaling.md"
_RESULTS = ROOT / "bench" / "results"

EXAMPLES: dict[str, tuple[Load, Site]] = {
    "10,000 phone calls, 31 frames a second": (
        Load(sessions=10_000, steps_per_s=31.25, snapshot_bytes=2 << 10),
        Site(replica_steps_per_s=20_000.0),
    ),
    "100,000 sensors, 1 step a second, and 900,000 at rest": (
        Load(sessions=100_000, steps_per_s=1.0, snapshot_bytes=4 << 10, idle_sessions=900_000),
        Site(replica_steps_per_s=10_000.0, slots=16_384),
    ),
    "1,000 writers, 50 tokens a second, each one kept": (
        Load(sessions=1_000, steps_per_s=50.0, snapshot_bytes=16 << 10, durability="sync"),
        Site(replica_steps_per_s=4_000.0),
    ),
    "10,000,000 sessions, 1 step in 10 s": (
        Load(sessions=10_000_000, steps_per_s=0.1, snapshot_bytes=4 << 10),
        Site(replica_steps_per_s=10_000.0, slots=16_384),
    ),
}
"""Worked examples: a load, and the replicas it runs on."""


def placement() -> str:
    """How even three ways to place are, and how much moves."""
    figures = _figures("placement-cpu")
    head = ["Replicas", *(f"{scheme}: fullest" for scheme in SCHEMES)]
    head += [f"{scheme}: moved" for scheme in SCHEMES]

    def row(n: int) -> Iterable[str]:
        found = [figures[f"{scheme}: {n} replicas"] for scheme in SCHEMES]
        yield f"{n:,}"
        yield from (f"{one['max_over_mean']['median']:.3f}" for one in found)
        yield from (_percent(one["moved_share"]["median"]) for one in found)

    return _table(head, map(row, REPLICAS))


def changes() -> str:
    """How long a fleet takes after a change."""
    figures = _figures("placement-cpu")

    def row(n: int) -> Iterable[str]:
        def found(event: str, quantity: str) -> float:
            return float(figures[f"{event}: {n} replicas"][quantity]["median"])

        yield f"{n:,}"
        yield f"{found('one comes', 'rebalance_s'):,.0f} s"
        yield f"{found('one crashes', 'all_run_again_s'):,.1f} s"
        yield _minutes(found("rolling restart", "minutes"))
        yield _minutes(found("rolling restart that waits", "minutes"))
        yield f"{found('rolling restart', 'moves_per_session'):.2f}"

    head = (
        "Replicas", "One more", "One crashes", "Rolling restart",
        "The same, each waits for its sessions", "Moves of a session",
    )  # fmt: skip
    return _table(head, map(row, REPLICAS))


def redirects() -> str:
    """The share of binds that are redirected while all replicas restart."""
    figures = _figures("placement-cpu")

    def row(n: int) -> Iterable[str]:
        found = figures[f"rolling restart: {n} replicas"]
        yield f"{n:,}"
        yield from (_percent(found[f"redirected_share_{lag}_s"]["median"]) for lag in (0, *LAGS_S))

    head = ["Replicas", "List of now", *(f"{lag} s old" for lag in LAGS_S)]
    return _table(head, map(row, REPLICAS))


def costs() -> str:
    """What one operation of the store costs, by the size of a snapshot."""
    figures = _figures("store-costs-cpu")

    def row(size_bytes: int) -> Iterable[str]:
        found = figures[f"redis, everysec: {size_bytes >> 10} KiB"]
        yield f"{size_bytes >> 10} KiB"
        for quantity in ("commit_us", "redis_commit_us", "activate_us", "release_us"):
            yield f"{found[quantity]['median']:,.0f} µs"
        yield f"{found['redis_bytes_per_session']['median']:,.0f}"

    head = (
        "Snapshot", "Commit, in a group of 64", "of it in Redis", "Activation", "Release",
        "Bytes in Redis",
    )  # fmt: skip
    return _table(head, map(row, sorted(COSTS.by_bytes)))


def examples() -> str:
    """What `carousel plan` says for a few loads."""

    def row(name: str) -> Iterable[str]:
        load, site = EXAMPLES[name]
        sizing = size(load, site, COSTS)
        yield name
        yield f"{load.snapshot_bytes >> 10} KiB"
        yield f"{site.replica_steps_per_s:,.0f}"
        yield f"{sizing.replicas:,}"
        yield f"{sizing.commits_per_s:,.0f}"
        yield f"{sizing.store_bytes_per_s / 1e6:,.0f} MB/s"
        yield _memory(sizing.store_memory_bytes)
        yield f"{sizing.shards:,}"
        yield f"{sizing.rebalance_s:,.0f} s" if sizing.rebalance_s >= 1 else "below 1 s"

    head = (
        "Load", "Snapshot", "Steps/s of a replica", "Replicas", "Commits/s", "To the store",
        "Memory of the store", "Shards", "One more replica",
    )  # fmt: skip
    return _table(head, map(row, EXAMPLES))


TABLES: dict[str, Callable[[], str]] = {
    one.__name__: one for one in (placement, changes, redirects, costs, examples)
}


def filled(page: str) -> str:
    """The page with its tables, each between `<!-- table: NAME -->` and `<!-- end -->`."""

    def fill(match: re.Match[str]) -> str:
        return f"{match[1]}\n{TABLES[match[2]]()}{match[3]}"

    return re.sub(r"(?s)(<!-- table: (\w+) -->)\n.*?(<!-- end -->)", fill, page)


def main() -> int:
    """Writes the page, or compares it; 1 if it is out of date."""
    before = PAGE.read_text(encoding="utf-8")
    after = filled(before)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(after, encoding="utf-8")
        return 0
    if before != after:
        print(f"{PAGE} is out of date; run python -m bench.placing.tables", file=sys.stderr)
    return int(before != after)


def _memory(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:,.0f} MB"


def _figures(name: str) -> Any:
    return json.loads((_RESULTS / f"{name}.json").read_text())["figures"]


def _table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _minutes(minutes: float) -> str:
    return f"{minutes:,.1f} min" if minutes < 120 else f"{minutes / 60:,.1f} h"


if __name__ == "__main__":
    sys.exit(main())
