"""Reads the server's /metrics: sums, quantiles, and what changed since an earlier read."""

from __future__ import annotations

import math
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPException

TIMEOUT_S = 2.0


class NotMetricsError(OSError):
    """A page that is not in Prometheus' text format."""


class Scrape:
    """All samples of one instant.

    Raises:
        NotMetricsError: the text is not in Prometheus' text format.
    """

    def __init__(self, text: str) -> None:
        from prometheus_client.parser import text_string_to_metric_families

        self._samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    found = self._samples.setdefault(sample.name, [])
                    found.append((sample.labels, sample.value))
        except (ValueError, KeyError, IndexError) as error:
            raise NotMetricsError(f"the page has no metrics: {error}") from error

    def total(self, name: str, **labels: str) -> float:
        """Sum over all label sets, or over those with `labels`, such as phase="resident"."""
        return sum(value for _, value in self._of(name, labels))

    def names(self, name: str, label: str) -> list[str]:
        """The values of a label of a metric, sorted."""
        return sorted({found[label] for found, _ in self._of(name, {}) if label in found})

    def labels(self, name: str) -> Mapping[str, str]:
        """The labels of the first sample of a metric. Empty if there is none."""
        return next((found for found, _ in self._of(name, {})), {})

    def quantile(
        self, name: str, fraction: float, since: Scrape | None = None, **labels: str
    ) -> float | None:
        """The upper bound of the bucket in which the quantile of a histogram lies.

        It is over all label sets, or those with `labels`, and with `since` over later observations only. None
        if there are none, infinity beyond the last bucket.
        """
        buckets = self.buckets(name, **labels)
        before = since.buckets(name, **labels) if since else {}
        counts = {bound: count - before.get(bound, 0.0) for bound, count in buckets.items()}
        wanted = fraction * counts.get(math.inf, 0.0)
        if wanted <= 0:
            return None
        return next((bound for bound in sorted(counts) if counts[bound] >= wanted), None)

    def buckets(self, name: str, **labels: str) -> dict[float, float]:
        """Cumulative counts by upper bound, summed over the label sets."""
        cumulative: dict[float, float] = {}
        for found, value in self._of(f"{name}_bucket", labels):
            bound = float(found["le"])
            cumulative[bound] = cumulative.get(bound, 0.0) + value
        return cumulative

    def _of(
        self, name: str, labels: Mapping[str, str]
    ) -> Iterator[tuple[Mapping[str, str], float]]:
        for found, value in self._samples.get(name, ()):
            if labels.items() <= found.items():
                yield found, value


def url_of(address: str) -> str:
    """The URL of the metrics at "host:port", or at a URL of its own."""
    return address if "://" in address else f"http://{address}/metrics"


def fetch(address: str) -> Scrape:
    """Reads the current metrics.

    Args:
        address: "host:port" of the metrics listener, or a URL.

    Raises:
        OSError: no server answers, or what answers has no metrics.
    """
    url = url_of(address)
    if not url.startswith(("http://", "https://")):
        raise NotMetricsError(f"{url} is no URL of http or https")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as reply:  # noqa: S310 - see above
            text = reply.read().decode()
    except (HTTPException, UnicodeDecodeError) as error:
        raise NotMetricsError(f"the page cannot be read: {error}") from error
    return Scrape(text)
