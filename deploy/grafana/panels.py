"""The panels of the dashboard with their queries, row by row."""

from __future__ import annotations

from queries import EACH, MODEL, SERVER, Panel, level, quantile, quantiles, rate, stat, total, whole
from replica_panels import EACH_SERVER, REPLICAS

AT_OWNER = f'{MODEL}, at="owner"'

_UNARY = f'{SERVER}, grpc_type="unary"'

ROWS: dict[str, tuple[Panel, ...]] = {
    "Now": (
        stat("Steps, all models", "ops", whole("carousel_steps_total")),
        stat("Tokens, all models", "ops", whole("carousel_tokens_total")),
        stat("Open sessions", "short", f"sum(carousel_sessions{{{MODEL}}})"),
        stat(
            "Sessions in a batch",
            "short",
            f"{whole('carousel_batch_size_sum')} / ({whole('carousel_batch_size_count')} > 0)",
        ),
        stat("Latency of a step, p99", "s", quantile(0.99, "carousel_step_seconds", by="")),
        stat("Refusals", "ops", whole("carousel_refusals_total", SERVER), alarm=True),
    ),
    "Throughput": (
        Panel("Steps per second", "ops", (("{{model}}", rate("carousel_steps_total")),)),
        Panel("Tokens per second", "ops", (("{{model}}", rate("carousel_tokens_total")),)),
        Panel("Ticks per second", "ops", (("{{model}}", rate("carousel_ticks_total")),)),
    ),
    "Latency": (
        Panel(
            "Latency of a step",
            "s",
            quantiles("carousel_step_seconds"),
            "A client's step, from arrival to delivery: queue, tick and delivery.",
        ),
        Panel("Time of a step in the queue", "s", quantiles("carousel_step_queue_seconds")),
        Panel(
            "Time of a tick on the device",
            "s",
            quantiles("carousel_tick_seconds"),
            "A tick steps one batch: one step or chunk of each session in it.",
        ),
        Panel("Time to the first token", "s", quantiles("carousel_first_token_seconds")),
        Panel("Time between tokens", "s", quantiles("carousel_inter_token_seconds")),
        Panel(
            "Steps by their latency",
            "s",
            (("{{le}}", rate("carousel_step_seconds_bucket", "le")),),
            "Steps per second in each bucket of latency.",
            kind="heatmap",
        ),
    ),
    "Batches and queues": (
        Panel(
            "Sessions in a batch, mean",
            "short",
            (
                (
                    "{{model}}",
                    f"{rate('carousel_batch_size_sum')} / ({rate('carousel_batch_size_count')} > 0)",
                ),
            ),
            "Sessions stepped together. It grows with the load.",
        ),
        Panel(
            "Rows of a batch that are sessions",
            "percentunit",
            (
                (
                    "{{model}}",
                    f"{rate('carousel_batch_size_sum')} / ({rate('carousel_bucket_rows_total')} > 0)",
                ),
            ),
            "Share of sessions in the computed rows. The other rows are padding.",
        ),
        Panel(
            "Steps and commands that wait",
            "short",
            (
                ("{{model}} steps", level("carousel_queue_steps")),
                ("{{model}} commands", level("carousel_inbox_commands")),
            ),
            "Steps accepted and not yet run, and commands in the inbox.",
        ),
    ),
    "Sessions": (
        Panel(
            "Sessions by phase",
            "short",
            (
                ("{{model}} {{phase}}", level("carousel_sessions", "model, phase")),
                ("{{model}} generating", level("carousel_sessions_generating")),
            ),
        ),
        Panel(
            "Sessions opened and ended",
            "ops",
            (
                ("{{model}} opened", rate("carousel_sessions_opened_total")),
                ("{{model}} {{how}}", rate("carousel_sessions_ended_total", "model, how")),
            ),
        ),
        Panel(
            "Slots in use",
            "percentunit",
            (
                (
                    "{{model}}",
                    f"{level('carousel_slots_used')} / {level('carousel_slots_capacity')}",
                ),
            ),
            "At 100 %, new sessions are refused with SLAB_FULL.",
        ),
        Panel(
            "State of open sessions",
            "bytes",
            (("{{model}} {{tier}}", level("carousel_state_bytes", "model, tier")),),
            "Recurrent state of open sessions, by where it is.",
        ),
        Panel(
            "Whole sequences",
            "ops",
            (
                ("{{model}} sequences", rate("carousel_infer_sequences_total")),
                ("{{model}} steps", rate("carousel_infer_steps_total")),
            ),
        ),
        Panel("Time of a batch of whole sequences", "s", quantiles("carousel_infer_batch_seconds")),
    ),
    "Replicas": REPLICAS,
    "The store": (
        Panel(
            "Time until a step is durable",
            "s",
            quantiles("carousel_durable_lag_seconds"),
            "From the run of a step to the store's confirmation.",
        ),
        Panel(
            "Steps ahead of the store",
            "short",
            (
                (
                    "{{model}}",
                    f"max by (model) (carousel_undurable_steps{{{MODEL}}})",
                ),
            ),
            "Steps of the session that is furthest ahead. It waits at durable_steps.",
        ),
        Panel(
            "Sessions parked, resumed, revoked",
            "ops",
            (("{{model}} {{how}}", rate("carousel_sessions_moved_total", "model, how")),),
            "revoked: a lease has expired, or another replica has the session.",
        ),
        Panel(
            "Snapshots committed",
            "ops",
            (("{{verdict}}", rate("carousel_store_commits_total", "verdict", SERVER)),),
            "fenced: another replica has the session. stale: an answer was lost.",
        ),
        Panel(
            "Time of a store request, p99",
            "s",
            (("{{kind}}", quantile(0.99, "carousel_store_request_seconds", "kind", SERVER)),),
            "Without the time in the queue.",
        ),
        Panel(
            "Failed store requests",
            "ops",
            (
                (
                    "{{kind}}",
                    rate("carousel_store_requests_total", "kind", f'{SERVER}, answer="failed"'),
                ),
            ),
            "The store did not answer. The server's log has the cause.",
        ),
        Panel(
            "Sessions lost or damaged in the store",
            "short",
            (
                (
                    "{{model}} {{reason}}",
                    level("carousel_data_losses_total", "model, reason"),
                ),
            ),
            "Sessions since the start, found when they were fetched. Each has a line in the log.",
        ),
        Panel(
            "Snapshots in a transaction of the store",
            "short",
            tuple(
                (f"p{int(q * 100)}", quantile(q, "carousel_store_commit_records", "", SERVER))
                for q in (0.5, 0.99)
            ),
        ),
        Panel(
            "Bytes committed to the store",
            "Bps",
            (("{{instance}}", rate("carousel_store_commit_bytes_total", "instance", SERVER)),),
        ),
        Panel(
            "In the store",
            "short",
            (
                ("{{instance}} sessions", level("carousel_store_sessions", "instance", SERVER)),
                ("{{instance}} bytes", level("carousel_store_bytes", "instance", SERVER)),
            ),
            "With several replicas, each reports the whole store.",
        ),
    ),
    "The door and the wire": (
        Panel(
            "Refusals by reason",
            "ops",
            (("{{reason}}", f"{rate('carousel_refusals_total', 'reason', SERVER)} > 0"),),
            "docs/reference/errors.md has the fix for each reason.",
        ),
        Panel(
            "Steps by tenant",
            "ops",
            (("{{tenant}}", rate("carousel_tenant_steps_total", "tenant")),),
            "Steps run in ticks. Tenants take turns when more are ready than a batch holds.",
        ),
        Panel(
            "Resident sessions by tenant",
            "short",
            (("{{tenant}}", level("carousel_tenant_sessions", "tenant")),),
        ),
        Panel(
            "Quota refusals by tenant",
            "ops",
            (("{{tenant}}", rate("carousel_tenant_refusals_total", "tenant", SERVER)),),
            "Tenants that have reached a quota. See docs/guides/tenants.md.",
        ),
        Panel(
            "Steps that are not finite",
            "ops",
            (("{{model}}", rate("carousel_steps_not_finite_total")),),
            "Refused, because an output or a state would be NaN or infinite. The sessions are unchanged.",
        ),
        Panel(
            "Calls",
            "ops",
            (
                (
                    "{{grpc_method}} {{grpc_code}}",
                    f"{rate('grpc_server_handled_total', 'grpc_method, grpc_code', SERVER)} > 0",
                ),
                (
                    "HTTP {{method}} {{code}}",
                    f"{rate('carousel_http_requests_total', 'method, code', SERVER)} > 0",
                ),
            ),
        ),
        Panel(
            "Time of a call, p99",
            "s",
            (
                (
                    "{{grpc_method}}",
                    quantile(0.99, "grpc_server_handling_seconds", "grpc_method", _UNARY),
                ),
                (
                    "HTTP {{method}}",
                    quantile(0.99, "carousel_http_request_seconds", "method", SERVER),
                ),
            ),
            "Of gRPC, unary calls only.",
        ),
        Panel(
            "Open gRPC calls",
            "short",
            (
                ("Attach streams", total("carousel_attach_streams")),
                ("front ends replaced", total("carousel_front_end_restarts_total")),
                ("connections closed", total("carousel_connections_closed_total")),
                ("turned away", total("carousel_turned_away_total")),
                ("models refused at start", total("carousel_models_refused")),
                (
                    "tokens and certificates read again",
                    total("carousel_secret_reloads_total"),
                ),
                (
                    "all calls",
                    f"{total('grpc_server_started_total')} - {total('grpc_server_handled_total')}",
                ),
            ),
        ),
        Panel(
            "Lag of the event loop",
            "s",
            tuple(
                (f"p{int(q * 100)}", quantile(q, "carousel_event_loop_lag_seconds", "", SERVER))
                for q in (0.5, 0.99)
            ),
            "Every call waits this in addition to its own work.",
        ),
    ),
    "Moves between replicas": (
        Panel(
            "Steps at their owner",
            "percentunit",
            (
                (
                    "{{model}}",
                    f"{rate('carousel_placed_steps_total', match=AT_OWNER)} / "
                    + rate("carousel_placed_steps_total"),
                ),
            ),
            "Share of the steps that ran where rendezvous hashing places their session.",
        ),
        Panel(
            "Sessions handed over",
            "ops",
            (
                (
                    "{{why}} {{direction}}",
                    rate("carousel_sessions_handed_over_total", "why, direction"),
                ),
                ("redirects", rate("carousel_redirects_total", "instance", SERVER)),
                ("rebalances", rate("carousel_rebalances_total", "instance", SERVER)),
            ),
        ),
        Panel(
            "Live replicas",
            "short",
            (("{{instance}}, accepting: {{accepting}}", f"carousel_replicas{{{SERVER}}}"),),
            "As each replica sees them. The replicas should agree.",
        ),
        Panel("Time of a hand-over", "s", quantiles("carousel_hand_over_seconds")),
        Panel(
            "Sessions of other owners",
            "short",
            (("{{instance}}", level("carousel_sessions_misplaced", "instance")),),
            "Resident sessions whose owner is another replica.",
        ),
    ),
    "Process": (
        Panel(
            "Processor cores in use",
            "percentunit",
            (
                (
                    "{{instance}}",
                    rate("process_cpu_seconds_total", "instance", f'{SERVER}, job="carousel"'),
                ),
            ),
            "1 is one core.",
        ),
        Panel(
            "Memory",
            "bytes",
            (
                (
                    "{{instance}}",
                    level("process_resident_memory_bytes", "instance", f'{SERVER}, job="carousel"'),
                ),
            ),
        ),
        Panel(
            "Uptime",
            "s",
            (
                (
                    "{{instance}}",
                    f'time() - process_start_time_seconds{{{SERVER}, job="carousel"}}',
                ),
            ),
        ),
        Panel(
            "Builds",
            "short",
            (
                (
                    "{{instance}}: {{version}}, torch {{torch}} on {{device}}",
                    f"carousel_build_info{{{SERVER}}}",
                ),
            ),
            kind="stat",
            options={"textMode": "name"},
        ),
        Panel(
            "Models",
            "short",
            (
                (
                    "{{model}}: {{layers}} × {{hidden}} {{cell}}, {{compute_dtype}}",
                    f"carousel_model_info{{{MODEL}}}",
                ),
            ),
            kind="stat",
            width=16,
            options={"textMode": "name"},
        ),
    ),
    f"Server {EACH}": EACH_SERVER,
}
"""The panels by the titles of their rows. The last row is repeated for each server."""
