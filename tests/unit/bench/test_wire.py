"""The wire alone: its engine answers what it is sent, and its figure compares both transports."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from bench import models, wire
from bench.instant import InstantCatalog
from bench.pressing import Pressure
from bench.processes import cpu_s, instant_server
from bench.report import Summary

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import Bind, Get, StepBlock, ask
from carousel_server.core.types import Durability, OpenSpec


class Sink:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[list[int], list[int], int, bytes]] = []

    def outputs(
        self, tags: np.ndarray, first_seqs: np.ndarray, steps: int, rows: np.ndarray
    ) -> None:
        self.told.append((tags.tolist(), first_seqs.tolist(), steps, rows.tobytes()))


def test_its_engine_gives_back_the_rows_of_all_blocks_with_one_call_of_their_sink() -> None:
    catalog, sink = InstantCatalog(), Sink()
    engine = catalog.engine(models.STEPPED)
    opened = [
        catalog.open(engine, OpenSpec("t", "", Durability.NONE)).result(timeout=5) for _ in range(2)
    ]
    for tag, (ref, view) in enumerate(opened, 1):
        bound = ask(engine, Bind(ref, sink, tag))  # type: ignore[arg-type]
        assert bound.result(timeout=5).id == view.id
    rows = [bytes([n]) * engine.model.input_row_bytes for n in (1, 2)]
    engine.submit_steps(
        [
            StepBlock(sink, [tag], [ref], [7], 1, row)  # type: ignore[arg-type]
            for tag, (ref, _), row in zip((1, 2), opened, rows, strict=True)
        ]
    )
    assert sink.told == [([1, 2], [7, 7], 1, b"".join(rows))]
    with pytest.raises(CarouselError, match="no Get here"):
        engine.submit(Get(opened[0][0]))


def test_ratios_are_of_the_shapes_that_both_transports_have() -> None:
    figures: Summary = {
        wire._name(who, *shape): {
            quantity: {"median": value, "min": value, "max": value}
            for quantity, value in (("steps_per_s", rate), ("cpu_us", 1 / rate))
        }
        for (who, rate), shape in product((("native", 4.0), ("python", 2.0)), wire.SHAPES)
    }
    ratios = dict(wire.ratios(figures))
    assert set(ratios.values()) == {2.0, 0.5}
    assert len(ratios) == 2 * len(wire.SHAPES)
    for shape in wire.SHAPES:
        figures[wire._name("grpcio 1.75.1", *shape)] = figures.pop(wire._name("native", *shape))
    others = dict(wire.ratios(figures))
    assert others["64 streams × 1: grpcio 1.75.1 over grpc.aio (steps per second)"] == 2.0


@pytest.mark.slow
def test_a_server_is_measured_under_load() -> None:
    with instant_server("python") as (process, address):
        before = cpu_s(process.pid)
        row_bytes = models.WIDTH * 4
        measured = wire._pressed(
            process.pid, Pressure(address, models.STEPPED, row_bytes, 0.5, 2, 1)
        )
        assert cpu_s(process.pid) > before
    assert measured["steps_per_s"] > 0
    assert measured["cpu_us"] > 0
    assert measured["p99_ms"] >= measured["p50_ms"] > 0
