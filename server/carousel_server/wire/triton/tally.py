"""Counts and times for ModelStatistics, of each tenant apart."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from carousel_protos.triton import inference_pb2 as pb

from .replies import VERSION


class TickTimes(NamedTuple):
    """When a tick began, and when it told of its outputs; 0 where the engine does not say."""

    began_s: float = 0.0
    told_s: float = 0.0


@dataclass(slots=True)
class Tally:
    """What one tenant has done with one model through the door since the server started.

    Attributes:
        steps, ticks: requests that ran, and engine ticks that had any of them.
        succeeded, failed: requests answered with outputs, and with an error.
        failure_ns: how long those with an error took together.
        input_ns: how long those with outputs took to be understood, together.
        queue_ns: how long they waited for their tick; for sync sequences, for the store too.
        infer_ns: how long their ticks ran until the outputs were told.
        output_ns: how long it took from then until the reply was there.
        last_ms: Unix time of the last one that ran, in milliseconds.
    """

    steps: int = 0
    ticks: int = 0
    succeeded: int = 0
    failed: int = 0
    failure_ns: int = 0
    input_ns: int = 0
    queue_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0
    last_ms: int = 0

    def statistics(self, model: str) -> pb.ModelStatistics:
        """As Triton tells it."""
        parts = (self.input_ns, self.queue_ns, self.infer_ns, self.output_ns)
        each = (pb.StatisticDuration(count=self.succeeded, ns=ns) for ns in (*parts, sum(parts)))
        compute_input, queue, compute_infer, compute_output, success = each
        return pb.ModelStatistics(
            name=model,
            version=VERSION,
            last_inference=self.last_ms,
            inference_count=self.steps,
            execution_count=self.ticks,
            inference_stats=pb.InferStatistics(
                success=success,
                fail=pb.StatisticDuration(count=self.failed, ns=self.failure_ns),
                queue=queue,
                compute_input=compute_input,
                compute_infer=compute_infer,
                compute_output=compute_output,
            ),
        )


class Tallies:
    """Those of all tenants of one model. Used on the loop only.

    Attributes:
        tick: of the outputs that are being answered now.
    """

    def __init__(self) -> None:
        self.tick = TickTimes()
        self._by_tenant: defaultdict[str, Tally] = defaultdict(Tally)

    def of(self, tenant: str) -> Tally:
        """A tenant's own."""
        return self._by_tenant[tenant]

    def ran(self, steps: Mapping[str, int]) -> None:
        """One tick's outputs have come: so many of each tenant."""
        now_ms = int(time.time() * 1e3)
        for tenant, count in steps.items():
            tally = self._by_tenant[tenant]
            tally.steps += count
            tally.ticks += 1
            tally.last_ms = now_ms


class Stopwatch:
    """Times one request."""

    __slots__ = ("_began_s", "_taken_s", "_tallies", "_tenant")

    def __init__(self, tallies: Tallies, tenant: str, began_s: float, taken_s: float = 0.0) -> None:
        """Instants at which the request was read and was understood; 0 is now."""
        self._tallies, self._tenant = tallies, tenant
        self._began_s, self._taken_s = began_s, taken_s or time.monotonic()

    def succeeded(self) -> None:
        """The request has its output, which came with the tick of the tallies."""
        now_s, tally = time.monotonic(), self._tallies.of(self._tenant)
        tick = self._tallies.tick
        told_s = min(max(tick.told_s, self._taken_s), now_s)
        ran_s = min(max(tick.began_s, self._taken_s), told_s)
        tally.succeeded += 1
        tally.input_ns += _ns(self._taken_s - self._began_s)
        tally.queue_ns += _ns(ran_s - self._taken_s)
        tally.infer_ns += _ns(told_s - ran_s)
        tally.output_ns += _ns(now_s - told_s)

    def failed(self) -> None:
        """The request has an error."""
        tally = self._tallies.of(self._tenant)
        tally.failed += 1
        tally.failure_ns += _ns(time.monotonic() - self._began_s)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
