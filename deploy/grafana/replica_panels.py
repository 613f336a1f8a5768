"""The panels that compare replicas, and those of one server."""

from __future__ import annotations

from queries import SERVER, Panel, level, quantile, quantiles, rate

REPLICAS = (
    Panel(
        "Sessions by replica",
        "short",
        (("{{instance}}", level("carousel_sessions", "instance")),),
        "Sessions on a row of each server. Even shares mean that placement works.",
    ),
    Panel(
        "Steps by replica",
        "ops",
        (("{{instance}}", rate("carousel_steps_total", "instance")),),
    ),
    Panel(
        "Latency of a step by replica, p99",
        "s",
        (("{{instance}}", quantile(0.99, "carousel_step_seconds", "instance")),),
        "One that stands out is slow itself. If all do, look at the store and the load.",
    ),
    Panel(
        "Calls for sessions of another replica",
        "ops",
        (
            (
                "{{instance}}",
                rate(
                    "carousel_refusals_total",
                    "instance",
                    f'{SERVER}, reason="SESSION_HELD"',
                ),
            ),
        ),
        "Refused with SESSION_HELD. Clients come to the wrong replica, or a dead one's lease still runs.",
    ),
    Panel(
        "Snapshots refused by the store, by replica",
        "ops",
        (
            (
                "{{instance}}",
                rate(
                    "carousel_store_commits_total",
                    "instance",
                    f'{SERVER}, verdict="fenced"',
                ),
            ),
        ),
        "Fenced: another replica has taken the session. Normal for a moment after a lease was lost.",
    ),
    Panel(
        "Servers that answer",
        "short",
        (("servers", f'count(up{{{SERVER}, job="carousel"}} == 1)'),),
    ),
)

EACH_SERVER = (
    Panel("Sessions here", "short", (("{{model}}", level("carousel_sessions")),), width=6),
    Panel("Steps here", "ops", (("{{model}}", rate("carousel_steps_total")),), width=6),
    Panel("Latency here", "s", quantiles("carousel_step_seconds"), width=6),
    Panel(
        "Refusals here",
        "ops",
        (("{{reason}}", f"{rate('carousel_refusals_total', 'reason', SERVER)} > 0"),),
        width=6,
    ),
)
"""A row of these is repeated for each chosen server."""
