"""Reads the server's /metrics, as much of Prometheus' text format as the demo needs."""

from __future__ import annotations

import math
import urllib.request
from collections.abc import Iterable
from typing import NamedTuple

TIMEOUT_S = 2.0


class Sample(NamedTuple):
    """One line: name, text of the labels between the braces, value."""

    name: str
    labels: str
    value: float


class Scrape:
    """All samples of one instant."""

    def __init__(self, text: str) -> None:
        self._samples: dict[str, list[Sample]] = {}
        for sample in parsed(text.splitlines()):
            self._samples.setdefault(sample.name, []).append(sample)

    def total(self, name: str, label: str = "") -> float:
        """Sum over all label sets, or over those with `label`, such as 'phase="resident"'."""
        return sum(s.value for s in self._samples.get(name, ()) if label in s.labels)

    def quantile(self, name: str, fraction: float, since: Scrape | None = None) -> float | None:
        """The upper bound of the bucket in which the quantile of a histogram lies.

        It is over all label sets, and with `since` over later observations only. None if there are none,
        infinity beyond the last bucket.
        """
        buckets = self.buckets(name)
        before = since.buckets(name) if since else {}
        counts = {bound: count - before.get(bound, 0.0) for bound, count in buckets.items()}
        wanted = fraction * counts.get(math.inf, 0.0)
        if wanted <= 0:
            return None
        return next(bound for bound in sorted(counts) if counts[bound] >= wanted)

    def buckets(self, name: str) -> dict[float, float]:
        """Cumulative counts by upper bound, summed over all label sets."""
        cumulative: dict[float, float] = {}
        for sample in self._samples.get(f"{name}_bucket", ()):
            bound = float(sample.labels.partition('le="')[2].partition('"')[0])
            cumulative[bound] = cumulative.get(bound, 0.0) + sample.value
        return cumulative


def parsed(lines: Iterable[str]) -> Iterable[Sample]:
    """The samples in the lines, without comments."""
    for line in lines:
        if not line or line.startswith("#"):
            continue
        series, _, value = line.rpartition(" ")
        name, _, labels = series.partition("{")
        yield Sample(name, labels.rstrip("}"), float(value))


def fetch(address: str) -> Scrape:
    """Reads the current metrics.

    Args:
        address: "host:port" of the metrics listener.

    Raises:
        OSError: no server answers.
    """
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=TIMEOUT_S) as reply:
        return Scrape(reply.read().decode())
