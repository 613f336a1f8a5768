"""`carousel plan`: how many replicas and shards a load needs."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from carousel.cli.exits import usage_error
from carousel.cli.options import Options, command
from carousel.cli.printing import print_record


class Level(StrEnum):
    """How a session is kept."""

    NONE = "none"
    ASYNC = "async"
    SYNC = "sync"
    SYNC_FSYNC = "sync+fsync"


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @command(app, "plan")
    def plan(
        options: Options,
        sessions: Annotated[int, typer.Option(help="Open sessions that step.")],
        steps_per_s: Annotated[float, typer.Option(help="Steps of each session a second.")],
        replica_steps_per_s: Annotated[
            float,
            typer.Option(help="Steps that one replica runs a second at most, from carousel bench."),
        ],
        model: Annotated[
            Path | None,
            typer.Option(metavar="FOLDER", help="A package: gives the snapshot's size."),
        ] = None,
        snapshot_bytes: Annotated[
            int | None, typer.Option(help="Bytes of a session in the store, instead of --model.")
        ] = None,
        durability: Annotated[Level, typer.Option(help="How sessions are kept.")] = Level.ASYNC,
        idle_sessions: Annotated[int, typer.Option(help="Open sessions that do not step.")] = 0,
        slots: Annotated[int, typer.Option(help="The setting.")] = 4096,
        used: Annotated[float, typer.Option(help="Share of the capacity to plan for.")] = 0.6,
        spare: Annotated[int, typer.Option(help="Replicas that may be away at a time.")] = 1,
        durable_steps: Annotated[int, typer.Option(help="The setting.")] = 32,
        durable_s: Annotated[float, typer.Option(help="The setting.")] = 0.05,
        lease_ttl_s: Annotated[float, typer.Option(help="The setting.")] = 10.0,
        moves_per_s: Annotated[float, typer.Option(help="The setting.")] = 100.0,
    ) -> None:
        """Compute replicas, shards of Redis, and what they ask of the store, for a load.

        The costs of the store are measured on one machine. Yours differs, so measure with a trial of your own
        before you buy. docs/guides/scaling.md explains each number.
        """
        from carousel.cli.sizing import COSTS, Load, Site, size

        if (model is None) == (snapshot_bytes is None):
            raise usage_error("give either --model or --snapshot-bytes")
        size_bytes = snapshot_bytes if model is None else _snapshot_bytes(model)
        assert size_bytes is not None
        load = Load(sessions, steps_per_s, size_bytes, durability.value, idle_sessions)
        site = Site(
            *(replica_steps_per_s, slots, used, spare),
            *(durable_steps, durable_s, lease_ttl_s, moves_per_s),
        )
        try:
            sizing = size(load, site, COSTS)
        except ValueError as error:
            raise usage_error(str(error)) from error
        record = {"snapshot_bytes": size_bytes, **asdict(sizing)}
        print_record(options, {name: _rounded(value) for name, value in record.items()})


def _rounded(value: float) -> float:
    """Three digits of what was computed: more would be noise. From 100 on without a fraction."""
    if isinstance(value, int):
        return value
    rounded = float(f"{value:.3g}")
    return int(rounded) if rounded >= 100 else rounded


def _snapshot_bytes(folder: Path) -> int:
    """Bytes of a session of a package in the store, without steps that wait for an ack."""
    from carousel.cli.sizing import HEADER_BYTES
    from carousel_models import check

    report = check(folder)
    if not report.ok:
        raise usage_error(f"{folder} cannot be served: {report.error}")
    return report.state_bytes + HEADER_BYTES
