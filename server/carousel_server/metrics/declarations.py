"""The registry of metrics: every series that a Carousel server exposes, declared once.

The counters, docs/reference/metrics.md and the tests of dashboard and alerts are made from this table. A
name is never changed, since the dashboards and alerts of users depend on it.

Names have the prefix `carousel_`. The names of `grpc_server_` and `process_` are those of the community, so
that stock dashboards work. Units are base units, counters end with `_total`, and no client can choose the
values of a label.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Types of the exposition format."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Owner(StrEnum):
    """Which part of the server writes a metric."""

    SERVER = "server"
    ENGINE = "engine"
    STORE = "store"
    WIRE = "wire"
    PROCESS = "process"


@dataclass(frozen=True, slots=True)
class Declaration:
    """One metric. `unit` is shown to people. `buckets` are upper bounds, without +Inf."""

    name: str
    kind: Kind
    owner: Owner
    help: str
    unit: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def base_name(self) -> str:
        """The name without the `_total` of counters."""
        return self.name.removesuffix("_total")

    @property
    def exposed_unit(self) -> str:
        """The unit of the `# UNIT` line: set if the name ends with it, as OpenMetrics requires."""
        return self.unit if self.base_name.endswith(f"_{self.unit}") else ""


STEP_BUCKETS_S = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01),
    *(0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
"""For recurrent steps: from a small GPU tick to an overlong queue."""
CALL_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""For whole calls."""
STORE_BUCKETS_S = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
"""From a read of memory to a network time-out."""
ROW_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
"""For batch sizes."""

_CALL = ("grpc_type", "grpc_service", "grpc_method")


def _engine(
    name: str, kind: Kind, unit: str, text: str, *labels: str, buckets: tuple[float, ...] = ()
) -> Declaration:
    return Declaration(name, kind, Owner.ENGINE, text, unit, ("model", *labels), buckets)


def _seconds(name: str, text: str) -> Declaration:
    return _engine(name, Kind.HISTOGRAM, "seconds", text, buckets=STEP_BUCKETS_S)


def _store(
    name: str, kind: Kind, unit: str, text: str, *labels: str, buckets: tuple[float, ...] = ()
) -> Declaration:
    return Declaration(name, kind, Owner.STORE, text, unit, labels, buckets)


def _process(name: str, kind: Kind, unit: str, text: str) -> Declaration:
    return Declaration(name, kind, Owner.PROCESS, text, unit)


def _registry(*declarations: Declaration) -> dict[str, Declaration]:
    table = {declaration.name: declaration for declaration in declarations}
    assert len(table) == len(declarations), "a metric is in the registry twice"
    return table


_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

METRICS: dict[str, Declaration] = _registry(
    # -- build and models
    Declaration(
        "carousel_build_info",
        _G,
        Owner.SERVER,
        "Always 1. The labels have the versions and the device.",
        "info",
        ("version", "python", "torch", "device"),
    ),
    _engine(
        "carousel_model_info",
        _G,
        "info",
        "Always 1. The labels have the weights that are served.",
        *("fingerprint", "cell", "layers", "hidden", "compute_dtype"),
    ),
    Declaration(
        "carousel_models_refused",
        _G,
        Owner.SERVER,
        "Packages that could not be loaded at the start. The log has their names and the causes.",
        "packages",
    ),
    # -- throughput
    _engine(
        "carousel_steps_total", _C, "steps", "Steps run in ticks, of clients and of generations."
    ),
    _engine(
        "carousel_steps_not_finite_total",
        _C,
        "steps",
        "Steps, and whole sequences, refused because an output or a state would be NaN or infinite.",
    ),
    _engine("carousel_tokens_total", _C, "tokens", "Generated tokens delivered."),
    _engine("carousel_ticks_total", _C, "ticks", "Ticks that ran a batch."),
    _engine("carousel_infer_sequences_total", _C, "sequences", "Whole sequences of Infer run."),
    _engine("carousel_infer_steps_total", _C, "steps", "Steps of whole sequences run."),
    # -- latency
    _seconds("carousel_step_seconds", "A client's step, from arrival to delivery."),
    _seconds("carousel_step_queue_seconds", "A client's step, from arrival to its tick."),
    _seconds("carousel_tick_seconds", "One tick on the device."),
    _seconds("carousel_first_token_seconds", "A generation, from request to first token."),
    _seconds("carousel_inter_token_seconds", "A generated token, from the one before it."),
    _seconds("carousel_infer_batch_seconds", "One whole-sequence batch, or a chunk of one."),
    # -- batching
    _engine(
        "carousel_batch_size",
        _H,
        "rows",
        "Sessions stepped together in a tick.",
        buckets=ROW_BUCKETS,
    ),
    _engine("carousel_bucket_rows_total", _C, "rows", "Rows computed in ticks, padding included."),
    # -- queues
    _engine("carousel_queue_steps", _G, "steps", "Steps accepted and not yet run."),
    _engine("carousel_inbox_commands", _G, "commands", "Commands waiting for the engine."),
    # -- sessions and their state
    _engine("carousel_sessions", _G, "sessions", "Sessions open now, by phase.", "phase"),
    _engine("carousel_sessions_generating", _G, "sessions", "Sessions with a running generation."),
    _engine("carousel_sessions_opened_total", _C, "sessions", "Sessions opened."),
    _engine(
        "carousel_sessions_ended_total", _C, "sessions", "Sessions ended: closed or expired.", "how"
    ),
    _engine(
        "carousel_sessions_moved_total",
        _C,
        "sessions",
        "Sessions parked in the store, resumed from it, or released because their lease was lost.",
        "how",
    ),
    _engine(
        "carousel_data_losses_total",
        _C,
        "sessions",
        "Sessions found lost or damaged in the store when they were fetched, by reason.",
        "reason",
    ),
    _engine(
        "carousel_undurable_steps",
        _G,
        "steps",
        "Most steps that a session has run and the store has not confirmed. At most durable_steps.",
    ),
    _seconds(
        "carousel_durable_lag_seconds",
        "Steps of a session, from running to the store's confirmation.",
    ),
    _engine("carousel_slots_used", _G, "slots", "Slots of the slab that hold a session."),
    _engine("carousel_slots_capacity", _G, "slots", "Slots of the slab."),
    _engine("carousel_state_bytes", _G, "bytes", "Recurrent state of open sessions.", "tier"),
    # -- moves between replicas
    _engine(
        "carousel_sessions_handed_over_total",
        _C,
        "sessions",
        "Sessions handed over: out to another replica because that asked, this one drains, or it is not the "
        "owner; or in, asked for by this one.",
        *("why", "direction"),
    ),
    _seconds(
        "carousel_hand_over_seconds",
        "One session, from the decision to hand it over to its release.",
    ),
    _engine(
        "carousel_placed_steps_total",
        _C,
        "steps",
        "Steps run in ticks, by whether this replica is the session's owner.",
        "at",
    ),
    _engine(
        "carousel_sessions_misplaced",
        _G,
        "sessions",
        "Resident sessions whose owner is another replica.",
    ),
    # -- tenants: the first 32 that are configured; the others are "other"
    _engine("carousel_tenant_steps_total", _C, "steps", "Steps run in ticks, by tenant.", "tenant"),
    _engine("carousel_tenant_sessions", _G, "sessions", "Resident sessions, by tenant.", "tenant"),
    # -- the store
    _store(
        "carousel_store_requests_total",
        _C,
        "requests",
        "Requests to the store, and whether it answered. A refusal is an answer.",
        *("kind", "answer"),
    ),
    _store(
        "carousel_store_request_seconds",
        _H,
        "seconds",
        "One request to the store, without its time in the queue.",
        "kind",
        buckets=STORE_BUCKETS_S,
    ),
    _store(
        "carousel_store_commits_total",
        _C,
        "snapshots",
        "Snapshots sent to the store: done, fenced by a newer activation, or stale.",
        "verdict",
    ),
    _store(
        "carousel_store_commit_records",
        _H,
        "snapshots",
        "Snapshots in one transaction.",
        buckets=ROW_BUCKETS,
    ),
    _store("carousel_store_commit_bytes_total", _C, "bytes", "Bytes of the snapshots committed."),
    _store("carousel_store_sessions", _G, "sessions", "Sessions in the store. -1 if unknown."),
    _store("carousel_store_bytes", _G, "bytes", "Size of the store. -1 if unknown."),
    # -- replicas of the store
    Declaration(
        "carousel_replicas",
        _G,
        Owner.SERVER,
        "Live replicas of the store, this one included. Those that drain do not accept sessions.",
        "replicas",
        ("accepting",),
    ),
    Declaration(
        "carousel_rebalances_total",
        _C,
        Owner.SERVER,
        "Rebalances begun, because replicas had come or gone.",
        "rebalances",
    ),
    # -- the wire
    Declaration(
        "carousel_refusals_total",
        _C,
        Owner.WIRE,
        "Calls, messages and steps answered with an error, by reason of the error registry.",
        "refusals",
        ("reason",),
    ),
    Declaration(
        "carousel_tenant_refusals_total",
        _C,
        Owner.WIRE,
        "QUOTA_EXCEEDED by tenant and setting. Tenants beyond the first 32 configured ones are other.",
        "refusals",
        ("tenant", "quota"),
    ),
    Declaration(
        "carousel_redirects_total",
        _C,
        Owner.WIRE,
        "Clients sent to another replica: by a Moved, or by an error that names a session's holder.",
        "redirects",
    ),
    Declaration(
        "carousel_attach_streams",
        _G,
        Owner.WIRE,
        "Streams of sessions open now: Attach, and those of Triton's protocol.",
        "streams",
    ),
    Declaration(
        "carousel_connections_closed_total",
        _C,
        Owner.WIRE,
        "Connections closed because their clients started and abandoned too many calls.",
        "connections",
    ),
    Declaration(
        "carousel_turned_away_total",
        _C,
        Owner.WIRE,
        "Refused by the native transport before a call began: connections beyond max_connections, calls "
        "beyond the limit of a connection, and connections that broke the protocol or pinged too often. "
        "With transport=python, gRPC refuses these without telling, and this stays 0.",
        "refusals",
        ("what",),
    ),
    Declaration(
        "carousel_secret_reloads_total",
        _C,
        Owner.WIRE,
        "Changed files of tokens and certificates that were read again, or could not be read. Each front "
        "end counts its own.",
        "reloads",
        ("what", "outcome"),
    ),
    Declaration(
        "carousel_front_end_restarts_total",
        _C,
        Owner.WIRE,
        "Front ends that died and were replaced.",
        "processes",
    ),
    Declaration(
        "carousel_event_loop_lag_seconds",
        _H,
        Owner.WIRE,
        "How late the event loop ran a timer. Every call waits this in addition to its own work.",
        "seconds",
        (),
        STEP_BUCKETS_S,
    ),
    Declaration("grpc_server_started_total", _C, Owner.WIRE, "Calls started.", "calls", _CALL),
    Declaration(
        "grpc_server_handled_total",
        _C,
        Owner.WIRE,
        "Calls ended, by status code.",
        "calls",
        (*_CALL, "grpc_code"),
    ),
    Declaration(
        "grpc_server_handling_seconds",
        _H,
        Owner.WIRE,
        "A call, from its start to its end. For a stream, its whole life.",
        "seconds",
        _CALL,
        CALL_BUCKETS_S,
    ),
    Declaration(
        "carousel_http_requests_total",
        _C,
        Owner.WIRE,
        "Calls of the HTTP door ended, by the name of the status code that gRPC would have.",
        "calls",
        ("method", "code"),
    ),
    Declaration(
        "carousel_http_request_seconds",
        _H,
        Owner.WIRE,
        "A call of the HTTP door, from its start to its end. For a stream, its whole life.",
        "seconds",
        ("method",),
        CALL_BUCKETS_S,
    ),
    # -- the process, by prometheus-client, where the system has /proc
    _process("process_cpu_seconds_total", _C, "seconds", "Processor time, user and system."),
    _process("process_resident_memory_bytes", _G, "bytes", "Memory in RAM."),
    _process("process_virtual_memory_bytes", _G, "bytes", "Address space."),
    _process("process_start_time_seconds", _G, "seconds", "Start, in Unix seconds."),
    _process("process_open_fds", _G, "files", "Open file descriptors."),
    _process("process_max_fds", _G, "files", "Limit of open file descriptors."),
)
"""Every metric, in the order of the documentation."""
