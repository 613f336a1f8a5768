"""`carousel bench`: measures a server under streams at their own pace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from carousel.cli.connect import connected
from carousel.cli.exits import CliError, ExitCode, usage_error
from carousel.cli.options import Options, Output, command, resolved
from carousel.cli.printing import note, print_json, print_record, print_records

if TYPE_CHECKING:
    from carousel.cli.load.plan import Load, Result

COLUMNS = (
    "streams", "steps_per_s", "p50_ms", "p99_ms", "max_ms", "missed", "missed_share", "client_late_p99_ms",
)  # fmt: skip
MOST_STREAMS = 1 << 20
STEP = 1.1
"""`--most` ends when the greatest number that holds and the smallest that does not are this close."""


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @command(app, "bench")
    def bench(
        options: Options,
        model: Annotated[str, typer.Argument(help="Name of a causal model.")],
        paced: Annotated[
            float | None,
            typer.Option(
                metavar="HZ",
                help="Steps a second of each stream, sent on time even if outputs are late. Without it "
                "a stream sends its next step when it has the output.",
            ),
        ] = None,
        streams: Annotated[int, typer.Option(min=1, help="Number of sessions.")] = 16,
        most: Annotated[
            bool,
            typer.Option(
                "--most", help="Search for the most streams whose p99 is within the deadline."
            ),
        ] = False,
        together: Annotated[
            int,
            typer.Option(
                min=1, help="Streams whose steps are sent in one message, as by a gateway."
            ),
        ] = 1,
        clients: Annotated[int, typer.Option(min=1, help="Processes that send.")] = 1,
        seconds: Annotated[float, typer.Option(min=0.1, help="Measured time.")] = 10.0,
        deadline_ms: Annotated[
            float | None,
            typer.Option(
                min=0.001, help="Latency above which a step has missed. Default: one period."
            ),
        ] = None,
        seed: Annotated[int, typer.Option(min=0, help="Seed of the random inputs.")] = 0,
    ) -> None:
        """Measure the latency of many streams on a running server, and the steps that miss a deadline.

        Each stream is a session of its own with random inputs. The latency of a paced step counts from
        the instant at which it was due.
        """
        from carousel.cli.load.clients import Target, measure
        from carousel.cli.load.plan import Load

        deadline_s = deadline_of(paced, deadline_ms)
        if most and deadline_s is None:
            raise usage_error("--most needs a deadline", "add --paced HZ or --deadline-ms MS")
        with connected(options) as client:
            info = client.model(model)
            if not info.causal:
                raise CliError(
                    f"{model} is not causal and has no sessions",
                    "choose a causal model: carousel models list",
                    ExitCode.REFUSED,
                )
        reached = resolved(options)
        target = Target(reached.server, reached.token, reached.tls.for_sdk())
        load = Load(
            model, streams, paced, together=together, clients=min(clients, streams),
            duration_s=seconds, deadline_s=deadline_s, seed=seed,
        )  # fmt: skip
        if most:
            show_most(options, searched(load, lambda load: measure(target, load)))
        else:
            show(options, measure(target, load))


def deadline_of(rate_hz: float | None, deadline_ms: float | None) -> float | None:
    """The deadline in seconds: the given one, or the period of a paced load.

    Raises:
        CliError: the rate is no positive number.
    """
    if rate_hz is not None and not 0 < rate_hz < float("inf"):
        raise usage_error(f"--paced {rate_hz:g} is no rate", "write steps a second: --paced 31.25")
    if deadline_ms is not None:
        return deadline_ms / 1000
    return None if rate_hz is None else 1 / rate_hz


def searched(load: Load, measured: Callable[[Load], Result]) -> Iterator[Result]:
    """Runs with more and more streams: doubled until one does not hold, then halfway between."""
    holds, fails, streams = 0, 0, load.streams
    while 0 < streams <= MOST_STREAMS:
        result = measured(replace(load, streams=streams, clients=min(load.clients, streams)))
        yield result
        if result.holds:
            holds = streams
        else:
            fails = streams
        if fails and (fails <= holds + load.together or fails <= holds * STEP):
            return
        streams = (holds + fails) // 2 if fails else 2 * streams


def show(options: Options, result: Result) -> None:
    """Prints one result, and a warning if it says more about the clients than about the server."""
    print_record(options, result.record())
    warn(result)


def show_most(options: Options, results: Iterator[Result]) -> None:
    """Prints each run, and the greatest number of streams that held."""
    runs: list[Result] = []
    for result in results:
        runs.append(result)
        verdict = "within the deadline" if result.holds else "too late"
        note(f"{result.load.streams} streams: p99 {result.p99_s * 1000:.2f} ms, {verdict}")
    best = max((run for run in runs if run.holds), key=lambda run: run.load.streams, default=None)
    streams = best.load.streams if best else 0
    if options.output is Output.JSON:
        print_json({"most_streams": streams, "runs": [run.record() for run in runs]})
    else:
        print_records(options, [run.record() for run in runs], COLUMNS)
        note(f"most streams with p99 within the deadline: {streams}")
    for run in runs:
        warn(run)


def warn(result: Result) -> None:
    """Says on stderr what a reader must know of a result."""
    if result.client_is_late:
        note(
            f"with {result.load.streams} streams the client itself was late (p99 "
            f"{result.late_p99_s * 1000:.2f} ms): add processes with --clients, or streams to a message "
            "with --together"
        )
    for reason, count in sorted(result.sample.errors.items()):
        note(f"{count} steps without an output: {reason}")
