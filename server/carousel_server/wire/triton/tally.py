"""Counts for ModelStatistics."""

from __future__ import annotations

import time
from dataclasses import dataclass

from carousel_protos.triton import inference_pb2 as pb

from .replies import VERSION


@dataclass(slots=True)
class Tally:
    """What one model has done through the door since the server started.

    Attributes:
        steps, ticks: requests that ran, and engine ticks that had any of them.
        succeeded, success_ns: requests answered with outputs, and how long all of them took together.
        failed, failure_ns: the same for those answered with an error.
        last_ms: Unix time of the last one that ran, in milliseconds.
    """

    steps: int = 0
    ticks: int = 0
    succeeded: int = 0
    success_ns: int = 0
    failed: int = 0
    failure_ns: int = 0
    last_ms: int = 0

    def ran(self, steps: int) -> None:
        """One tick's outputs have come."""
        self.steps += steps
        self.ticks += 1
        self.last_ms = int(time.time() * 1e3)

    def statistics(self, model: str) -> pb.ModelStatistics:
        """As Triton tells it. Queue and computing are told by the server's own metrics."""
        return pb.ModelStatistics(
            name=model,
            version=VERSION,
            last_inference=self.last_ms,
            inference_count=self.steps,
            execution_count=self.ticks,
            inference_stats=pb.InferStatistics(
                success=pb.StatisticDuration(count=self.succeeded, ns=self.success_ns),
                fail=pb.StatisticDuration(count=self.failed, ns=self.failure_ns),
                queue=pb.StatisticDuration(count=self.succeeded),
                compute_input=pb.StatisticDuration(count=self.succeeded),
                compute_infer=pb.StatisticDuration(count=self.succeeded),
                compute_output=pb.StatisticDuration(count=self.succeeded),
            ),
        )
