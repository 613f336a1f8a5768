"""How many replicas and shards a load needs, and what they ask of the store: plain arithmetic.

The costs of the store are measured. `python -m bench store-costs` measures them again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Load:
    """What clients do.

    Attributes:
        sessions: open sessions that step.
        steps_per_s: steps of each session a second.
        snapshot_bytes: bytes of one session in the store.
        durability: "none", "async", "sync" or "sync+fsync".
        idle_sessions: open sessions that do not step. They are parked in the store.
    """

    sessions: int
    steps_per_s: float
    snapshot_bytes: int
    durability: str = "async"
    idle_sessions: int = 0


@dataclass(frozen=True, slots=True)
class Site:
    """What the operator has, and how it is set.

    Attributes:
        replica_steps_per_s: steps that one replica runs a second at most: see `carousel bench`.
        slots: the setting. Sessions that step stand on a slot each.
        used: the share of that capacity that is planned for, above 0 and at most 1.
        spare: replicas that may be away without any effect.
        durable_steps, durable_s, lease_ttl_s, moves_per_s: the settings.
    """

    replica_steps_per_s: float
    slots: int = 4096
    used: float = 0.6
    spare: int = 1
    durable_steps: int = 32
    durable_s: float = 0.05
    lease_ttl_s: float = 10.0
    moves_per_s: float = 100.0


@dataclass(frozen=True, slots=True)
class Costs:
    """What operations cost on a Redis that syncs every second; see bench/results/store-costs-cpu.md.

    Attributes:
        by_bytes: for sizes of a snapshot, the microseconds of one commit in the server's store thread, in
            Redis, and the bytes of Redis' memory that a session takes.
        tags: hash tags of a cluster, over which sessions are spread. A lease is renewed in each.
        polls_per_s: how often a replica looks into its mailbox.
        renewals_per_ttl: how often it renews its lease within the lease's life.
        small_us: microseconds of Redis for a small operation, such as one of these.
    """

    by_bytes: Mapping[int, tuple[float, float, float]]
    tags: int
    polls_per_s: float
    renewals_per_ttl: int
    small_us: float


@dataclass(frozen=True, slots=True)
class Sizing:
    """The answer. Rates are of the whole deployment, unless the name says otherwise."""

    replicas: int
    sessions_per_replica: float
    steps_per_s: float
    commits_per_s: float
    store_bytes_per_s: float
    store_thread_share: float
    store_memory_bytes: float
    redis_core_share: float
    shards: int
    lease_writes_per_s: float
    mailbox_polls_per_s: float
    rebalance_s: float
    crash_s: float


def steps_per_commit(load: Load, site: Site) -> float:
    """How many steps of a session one snapshot covers. Its steps come at equal intervals.

    A session with durability async is due two thirds of `durable_s` after its first step that the store
    lacks, or when it is half of `durable_steps` ahead.
    """
    if load.durability != "async":
        return 1.0
    within = math.floor(load.steps_per_s * site.durable_s * 2 / 3) + 1
    return float(min(within, max(site.durable_steps // 2, 1)))


def size(load: Load, site: Site, costs: Costs) -> Sizing:
    """Sizes a deployment.

    Raises:
        ValueError: a number is out of its range. The message names it.
    """
    _check(load, site)
    steps_per_s = load.sessions * load.steps_per_s
    by_steps = steps_per_s / (site.replica_steps_per_s * site.used)
    by_slots = load.sessions / (site.slots * site.used)
    replicas = max(math.ceil(max(by_steps, by_slots)), 1) + site.spare
    stored = load.durability != "none"
    commits_per_s = steps_per_s / steps_per_commit(load, site) if stored else 0.0
    thread_us, redis_us, memory_bytes = costs_of(load.snapshot_bytes, costs)
    commit_share = commits_per_s * redis_us / 1e6
    tags = costs.tags if commit_share > site.used else 1
    leases = replicas * tags * costs.renewals_per_ttl / site.lease_ttl_s * stored
    polls = replicas * costs.polls_per_s * stored
    core_share = commit_share + (leases + polls) * costs.small_us / 1e6
    per_replica = load.sessions / replicas
    return Sizing(
        replicas=replicas,
        sessions_per_replica=per_replica,
        steps_per_s=steps_per_s,
        commits_per_s=commits_per_s,
        store_bytes_per_s=commits_per_s * load.snapshot_bytes,
        store_thread_share=commits_per_s / replicas * thread_us / 1e6,
        store_memory_bytes=(load.sessions + load.idle_sessions) * memory_bytes * stored,
        redis_core_share=core_share,
        shards=max(math.ceil(core_share / site.used), 1) if stored else 0,
        lease_writes_per_s=leases,
        mailbox_polls_per_s=polls,
        rebalance_s=load.sessions / (replicas + 1) / site.moves_per_s if stored else 0.0,
        crash_s=site.lease_ttl_s if stored else 0.0,
    )


HEADER_BYTES = 1024
"""About so much of a snapshot is neither state nor steps without an ack. Each tensor adds 100 bytes to it."""


def costs_of(snapshot_bytes: int, costs: Costs) -> tuple[float, float, float]:
    """`Costs.by_bytes` for any size: on the line between the two measured sizes next to it.

    Beyond the largest size, the costs grow in proportion to the bytes.
    """
    sizes = sorted(costs.by_bytes)
    beyond = max(snapshot_bytes / sizes[-1], 1.0)
    at = min(max(snapshot_bytes, sizes[0]), sizes[-1])
    low, high = next(pair for pair in pairwise(sizes) if at <= pair[1])
    along = (at - low) / (high - low)
    thread_us, redis_us, memory = (
        (left + along * (right - left)) * beyond
        for left, right in zip(costs.by_bytes[low], costs.by_bytes[high], strict=True)
    )
    return thread_us, redis_us, memory


def _check(load: Load, site: Site) -> None:
    positive = {
        "sessions": load.sessions,
        "steps_per_s": load.steps_per_s,
        "snapshot_bytes": load.snapshot_bytes,
        "replica_steps_per_s": site.replica_steps_per_s,
        "slots": site.slots,
        "used": site.used,
    }
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value:g} and must be above 0")
    if site.used > 1:
        raise ValueError(f"used is {site.used:g} and must be at most 1")
    if site.spare < 0 or load.idle_sessions < 0:
        raise ValueError("spare and idle_sessions must not be negative")


COSTS = Costs(
    # From bench/results/store-costs-cpu.json; a test compares.
    by_bytes={
        1 << 10: (26.44, 12.5, 2417),
        4 << 10: (41.62, 22.57, 6200),
        16 << 10: (103.4, 67.33, 21590),
        64 << 10: (373.2, 286.1, 83030),
        256 << 10: (2736, 1675, 329100),
    },
    tags=64,
    polls_per_s=20.0,
    renewals_per_ttl=3,
    small_us=10.0,
)
