"""`carousel top`: the numbers of recorded metrics, a server that goes away, and what is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO

import prometheus_client as prometheus
import pytest
from rich.console import Console

from carousel.cli.commands.top import as_json, checked
from carousel.cli.exits import CliError
from carousel.cli.exposition import Scrape
from carousel.cli.top.screen import as_bound, as_time, drawn, per_s
from carousel.cli.top.view import ServerView, between
from carousel.cli.top.watch import Sample, Watch, Watches

STEPS = (0.001, 0.005, 0.01)


def page(*, steps: int = 0, ticks: int = 0, started_s: float = 1000.0, slow: int = 0) -> str:
    """A page of metrics with two models; all numbers are of the model "lstm"."""
    registry = prometheus.CollectorRegistry()

    def counter(name: str, value: float, **labels: str) -> None:
        made = prometheus.Counter(name, "H.", list(labels), registry=registry)
        made.labels(**labels).inc(value) if labels else made.inc(value)

    def gauge(name: str, value: float, *others: dict[str, str], **labels: str) -> None:
        made = prometheus.Gauge(name, "H.", list(labels), registry=registry)
        for one in (labels, *others):
            made.labels(**one).set(value) if one else made.set(value)

    gauge("carousel_build_info", 1, version="0.1.0", device="cpu")
    gauge("carousel_slots_capacity", 64, {"model": "gru"}, model="lstm")
    gauge("carousel_slots_used", 3, model="lstm")
    gauge("carousel_sessions", 5, model="lstm", phase="parked")
    gauge("carousel_queue_steps", 12_345, model="lstm")
    gauge("process_start_time_seconds", started_s)
    gauge("process_resident_memory_bytes", 250e6)
    gauge("carousel_attach_streams", 2)
    gauge("carousel_store_sessions", 8)
    gauge("carousel_tenant_sessions", 3, {"tenant": "two"}, tenant="one")
    counter("carousel_tenant_steps", steps, tenant="two")
    counter("carousel_steps", steps, model="lstm")
    counter("carousel_refusals", ticks, reason="QUOTA_EXCEEDED")
    counter("carousel_store_requests", 1, kind="commit")
    counter("process_cpu_seconds", ticks / 10)
    batch = prometheus.Histogram("carousel_batch_size", "H.", ["model"], registry=registry)
    latency = prometheus.Histogram(
        "carousel_step_seconds", "H.", ["model"], buckets=STEPS, registry=registry
    )
    for _ in range(ticks):
        batch.labels("lstm").observe(4)
        latency.labels("lstm").observe(0.002)
    for _ in range(slow):
        latency.labels("lstm").observe(60)
    return prometheus.generate_latest(registry).decode()


def view() -> ServerView:
    before, now = Scrape(page(steps=100, ticks=10)), Scrape(page(steps=300, ticks=30))
    return between(before, now, 2.0, 1090.0)


def test_the_numbers_are_those_between_two_reads() -> None:
    found = view()
    gru, lstm = found.models
    assert (found.version, found.device, found.up_s, found.restarted) == ("0.1.0", "cpu", 90, False)
    assert (lstm.steps, lstm.batch, lstm.sessions, lstm.parked) == (100.0, 4.0, 3, 5)
    assert (lstm.queue, lstm.slots) == (12_345, 64)
    assert (lstm.step_p50_s, lstm.step_p99_s, lstm.tick_p50_s) == (0.005, 0.005, None)
    assert (gru.steps, gru.batch, gru.step_p50_s) == (0.0, None, None)
    assert found.errors == {"QUOTA_EXCEEDED": 10.0}
    assert found.cores == pytest.approx(1.0)
    assert (found.store_sessions, found.replicas, found.streams) == (8, 0, 2)
    assert [(one.tenant, one.steps, one.sessions) for one in found.tenants] == [
        ("two", 100.0, 3),
        ("one", 0.0, 3),
    ]


def test_a_quantile_counts_new_observations_only() -> None:
    before, now = Scrape(page(ticks=1000)), Scrape(page(ticks=1000, slow=1))
    model = between(before, now, 1.0, 0.0).models[1]
    assert model.step_p50_s == math.inf
    assert as_bound(model.step_p50_s) == "> 2.5 s"


def test_a_server_that_was_started_again_counts_from_its_start() -> None:
    before = Scrape(page(steps=1000, started_s=1000))
    found = between(before, Scrape(page(steps=10, started_s=1050)), 1.0, 1051)
    assert found.restarted
    assert found.models[1].steps == 10.0


def test_a_server_that_goes_away_is_looked_for() -> None:
    def reads() -> Iterator[str]:
        yield page(steps=1)
        yield page(steps=3)
        yield ""
        yield ""
        yield page(steps=2, started_s=2000)
        yield page(steps=7, started_s=2000)

    texts, times = reads(), iter(range(100))

    def read(_: str) -> Scrape:
        text = next(texts)
        if not text:
            raise ConnectionRefusedError(111, "Connection refused")
        return Scrape(text)

    watch = Watch("here:1", read, lambda: float(next(times)))
    assert watch.sample() == Sample("here:1")
    there = watch.sample().view
    assert there is not None
    assert there.models[1].steps == 2.0
    first, second = watch.sample(), watch.sample()
    assert (first.away, first.view, first.away_s) == ("Connection refused", None, 0)
    assert second.away_s == 1.0
    assert watch.sample() == Sample("here:1")
    back = watch.sample().view
    assert back is not None
    assert back.models[1].steps == 5.0


def test_all_servers_are_read_at_the_same_time() -> None:
    watches = Watches([Watch(f"127.0.0.1:{port}") for port in (1, 2)])
    assert [bool(one.away) for one in watches.samples()] == [True, True]
    watches.close()


def text_of(*samples: Sample, width: int = 160) -> str:
    out = StringIO()
    Console(file=out, width=width).print(drawn(samples, width))
    return out.getvalue()


def test_what_is_drawn() -> None:
    text = text_of(Sample("a:1", view()), Sample("b:2", away="Connection refused", away_s=75))
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0].startswith("a:1  0.1.0 on cpu · up 2 min · 250 MB · 1.00 cores · 2 streams")
    assert "store: 8 sessions, request p99 –" in lines
    assert "errors/s: 10 (QUOTA_EXCEEDED 10)" in lines
    assert "tenants: two 100 steps/s, 3 sessions; one 0.0 steps/s, 3 sessions" in lines
    (lstm,) = (line for line in lines if line.startswith("lstm"))
    assert lstm.split()[:6] == ["lstm", "100", "0", "3/64", "12,345", "4.0"]
    assert "≤ 5.0 ms" in lstm
    assert lines[-1] == "b:2  away for 1 min: Connection refused; looking for it"
    assert "second read" in text_of(Sample("a:1"))


@pytest.mark.parametrize("width", [20, 40, 60, 90])
def test_a_narrow_terminal_shows_the_first_columns(width: int) -> None:
    text = text_of(Sample("a:1", view()), width=width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "model" in text
    assert ("durable p99" in text) == (width > 150)


def test_a_restart_is_said() -> None:
    assert "started again" in text_of(Sample("a:1", replace(view(), restarted=True)))


def test_texts_of_a_server_cannot_move_the_cursor() -> None:
    assert "\x1b[2J" not in text_of(Sample("a:1", replace(view(), version="\x1b[2J")))


def test_small_texts() -> None:
    assert [as_time(one) for one in (5, 100, 7200, 200_000)] == ["5 s", "2 min", "2 h", "2 d"]
    assert [per_s(one) for one in (0.0, 0.4, 12_345.0)] == ["0", "0.4", "12,345"]
    assert as_json({"a": [math.inf, 1.0]}) == {"a": ["+Inf", 1.0]}


@pytest.mark.parametrize("address", ["localhost", "a:b", "ftp://a:1/x", "a/b:1", ":1", "a:70000"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(CliError, match="not an address of metrics"):
        checked(address)
    assert checked("[::1]:9464") == "[::1]:9464"
    assert checked("https://host/metrics") == "https://host/metrics"
