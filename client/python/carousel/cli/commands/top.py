"""`carousel top`: a live table of what servers do, from their metrics."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carousel.cli.exits import CliError, ExitCode, usage_error
from carousel.cli.options import DEFAULT_METRICS_PORT, Options, Output, command
from carousel.cli.printing import print_json, stdout_console

if TYPE_CHECKING:
    from rich.console import Console

    from carousel.cli.top.watch import Watches

Addresses = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[HOST:PORT]...",
        help=f"Addresses of metrics, or URLs. Default: localhost:{DEFAULT_METRICS_PORT}.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @command(app, "top")
    def top(
        options: Options,
        addresses: Addresses = None,
        interval: Annotated[
            float, typer.Option("--interval", min=0.1, max=3600, help="Seconds between two reads.")
        ] = 1.0,
        once: Annotated[bool, typer.Option("--once", help="Show one sample and end.")] = False,
    ) -> None:
        """Show live what servers do: steps, tokens, sessions, queues, latencies, tenants, store, errors.

        Rates and latencies are those of the last interval. A latency is the upper bound of its bucket. A
        server that goes away is shown as away and looked for again. Ctrl-C ends the view with exit code 0.
        With --once or -o json, one sample is printed. The exit code is then 3 if a server is away.
        """
        from carousel.cli.top.watch import Watch, Watches

        named = addresses or [f"localhost:{DEFAULT_METRICS_PORT}"]
        watches = Watches([Watch(checked(one)) for one in dict.fromkeys(named)])
        try:
            if once or options.output is Output.JSON:
                show_once(options, watches, interval)
            else:
                show_live(watches, interval)
        finally:
            watches.close()


def checked(address: str) -> str:
    """An address of the form HOST:PORT, or a URL.

    Raises:
        CliError: it is neither.
    """
    host, _, port = address.rpartition(":")
    is_url = address.startswith(("http://", "https://"))
    if is_url or (host and "/" not in address and port.isdecimal() and int(port) < 1 << 16):
        return address
    fix = f"write it as HOST:PORT, as in localhost:{DEFAULT_METRICS_PORT}, or as a URL"
    raise usage_error(f"'{address}' is not an address of metrics", fix)


def show_once(options: Options, watches: Watches, interval_s: float) -> None:
    """Prints one sample over an interval.

    Raises:
        CliError: a server is away. The others are printed.
    """
    from carousel.cli.top.screen import drawn

    watches.samples()
    time.sleep(interval_s)
    samples = watches.samples()
    if options.output is Output.JSON:
        print_json([as_json(asdict(sample)) for sample in samples])
    else:
        console = stdout_console()
        console.print(drawn(samples, console.width))
    away = [sample for sample in samples if sample.away]
    if away:
        told = ", ".join(f"{sample.address} ({sample.away})" for sample in away)
        fix = "name the address of a server's metrics; carousel config show has metrics_port"
        raise CliError(f"no metrics at {told}", fix, ExitCode.UNREACHABLE)


def as_json(value: Any) -> Any:
    """The value with infinity, which JSON does not have, as Prometheus writes it."""
    if isinstance(value, dict):
        return {key: as_json(part) for key, part in value.items()}
    if isinstance(value, list):
        return [as_json(part) for part in value]
    return "+Inf" if value == math.inf else value


def show_live(watches: Watches, interval_s: float) -> None:
    """Shows samples until Ctrl-C: in place on a terminal, one below the other in a pipe."""
    console = stdout_console()
    try:
        if console.is_terminal:
            redraw(watches, console, interval_s)
        else:
            follow(watches, console, interval_s)
    except KeyboardInterrupt:
        return


def redraw(watches: Watches, console: Console, interval_s: float) -> None:
    """Draws each sample over the last one. The last one stays on the terminal."""
    from rich.live import Live

    from carousel.cli.top.screen import drawn

    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            live.update(drawn(watches.samples(), console.width), refresh=True)
            time.sleep(interval_s)


def follow(watches: Watches, console: Console, interval_s: float) -> None:
    """Prints each sample, with its time before it."""
    from carousel.cli.top.screen import drawn

    while True:
        console.print(time.strftime("%H:%M:%S"))
        console.print(drawn(watches.samples(), console.width))
        console.file.flush()
        time.sleep(interval_s)
