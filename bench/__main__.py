"""`python -m bench [FIGURE]`: measures, prints a table, writes JSON and the page made from it.

Without a figure: all of them, each in a process of its own, then the pictures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from . import (
    blocks,
    bounds,
    crowded,
    durability,
    finite,
    footprint,
    front_ends,
    generation,
    http_door,
    incumbent,
    invariance,
    machine,
    models,
    overload,
    paced,
    parking,
    prefill,
    processes,
    sequences,
    served,
    tenants,
    ticks,
    wire,
)
from .figures import Figures, Workload
from .loops import loop_factory
from .placing import figure as placement
from .report import Ratios, foundation_ratios, page
from .step import figure as step
from .step import on_gpu, others
from .store_costs import figure as store_costs

RESULTS = Path(__file__).parent / "results"
_SESSIONS = 100_000

Groups = Iterable[Sequence[Workload]]
"""Workloads that are measured in turns, group after group."""

Measures = Callable[[argparse.Namespace, str, Path, ExitStack, asyncio.Runner], Groups]


def main() -> int:
    """Measures. Returns the exit code: of the first figure that failed, if several were wanted."""
    options = _options()
    return _measure(options) if options.figure else _measure_all(sys.argv[1:])


def _measure_all(arguments: Sequence[str]) -> int:
    """One figure after the other; what a machine lacks is said by the figure that needs it."""
    commands = [["-m", "bench", name, *arguments] for name in FIGURES]
    codes = []
    for command in [*commands, ["-m", "bench.plots"]]:
        print(f"python {' '.join(command)}", flush=True)
        codes.append(subprocess.run([sys.executable, *command], check=False).returncode)
    return next((code for code in codes if code), 0)


def _measure(options: argparse.Namespace) -> int:
    device = _device(options.device)
    torch.set_num_threads(options.threads)
    measures, ratios = FIGURES[options.figure]
    report: dict[str, Any] = {
        "machine": machine.facts(device),
        "settings": {
            k: str(v) for k, v in vars(options).items() if k not in ("out", "peers_python")
        },
    }
    figures = Figures()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runner = stack.enter_context(asyncio.Runner(loop_factory=loop_factory()))
        for group in measures(options, device, folder, stack, runner):
            figures.take(group, options.rounds, lambda line: print(line, file=sys.stderr))
    report["figures"] = figures.summary()
    if options.figure == "foundation":
        report["bits"] = invariance.classes(device, options.kernel)
    kind = "" if options.dtype == "float32" else f"-{options.dtype}"
    kind += "" if options.kernel == "auto" else f"-kernel-{options.kernel}"
    out = options.out or RESULTS / f"{options.figure}-{device}{kind}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    out.with_suffix(".md").write_text(page(report, ratios))
    _print(figures)
    print(f"written to {out} and {out.with_suffix('.md').name}")
    return 0


def _foundation(
    options: argparse.Namespace,
    device: str,
    folder: Path,
    stack: ExitStack,
    runner: asyncio.Runner,
) -> Groups:
    """What the parts cost: the model's step, the engine around it, gRPC around both, and an echo."""
    seconds, kernel = options.seconds, options.kernel
    models.make(folder, options.dtype)
    carousel_address = stack.enter_context(processes.carousel_server(folder, device, kernel=kernel))
    echo_address = stack.enter_context(processes.echo_server())
    yield [
        *bounds.workloads(folder, device, seconds, kernel),
        *served.step_workloads("echo", echo_address, runner.run, seconds),
        *served.step_workloads("carousel", carousel_address, runner.run, seconds),
        *served.generation_workloads(carousel_address, runner.run, seconds),
    ]


def _step(
    options: argparse.Namespace,
    device: str,
    folder: Path,
    stack: ExitStack,
    runner: asyncio.Runner,
) -> Groups:
    """The step of layers of many sizes, beside libraries and the machine's limits."""
    if device == "cuda":
        yield from on_gpu.groups(options, torch.device(device))
        return
    yield from step.groups(options, stack.enter_context(others.start(options.peers_python)))


def _one_group(workloads: Callable[..., Sequence[Workload]]) -> Measures:
    return lambda *given: [workloads(*given)]


def _no_ratios(_figures: Any) -> Iterator[tuple[str, float]]:
    yield from ()


FIGURES: dict[str, tuple[Measures, Ratios]] = {
    "foundation": (_foundation, foundation_ratios),
    "durability": (_one_group(durability.workloads), durability.ratios),
    "step": (_step, step.ratios),
    "parking": (_one_group(parking.workloads), _no_ratios),
    "crowded": (_one_group(crowded.workloads), crowded.ratios),
    "footprint": (_one_group(footprint.workloads), footprint.ratios),
    "blocks": (_one_group(blocks.workloads), blocks.ratios),
    "generation": (_one_group(generation.workloads), generation.ratios),
    "front-ends": (_one_group(front_ends.workloads), front_ends.ratios),
    "triton": (_one_group(incumbent.workloads), incumbent.ratios),
    "overload": (_one_group(overload.workloads), overload.ratios),
    "tenants": (_one_group(tenants.workloads), tenants.ratios),
    "paced": (_one_group(paced.workloads), paced.ratios),
    "prefill": (_one_group(prefill.workloads), prefill.ratios),
    "sequences": (_one_group(sequences.workloads), sequences.ratios),
    "ticks": (_one_group(ticks.workloads), ticks.ratios),
    "finite": (_one_group(finite.workloads), finite.ratios),
    "placement": (_one_group(placement.workloads), placement.ratios),
    "wire": (_one_group(wire.workloads), wire.ratios),
    "http": (_one_group(http_door.workloads), http_door.ratios),
    "store-costs": (_one_group(store_costs.workloads), store_costs.ratios),
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("figure", nargs="?", choices=FIGURES, help="default: all")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each figure")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--kernel",
        choices=("auto", "reference", "cpu", "cuda"),
        default="auto",
        help="of foundation, blocks and generation; of step on a GPU, where auto is cuda",
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads for the bounds")
    parser.add_argument(
        "--sessions",
        type=int,
        help=f"open ones; default {placement.SESSIONS} for placement, {_SESSIONS} for parking, crowded",
    )
    parser.add_argument("--cases", default="", help='of step, by words: "lstm,x256 ,float32"')
    parser.add_argument(
        "--layers", type=int, nargs="+", help="of step; default 1, and on a GPU 1, 2 and 4"
    )
    parser.add_argument("--compiled", action="store_true", help="of step: torch.compile as well")
    parser.add_argument(
        "--grpcio",
        nargs="+",
        default=(),
        help="of wire: versions to measure beside the installed one",
    )
    parser.add_argument(
        "--peers-python", default=sys.executable, help="interpreter with onnxruntime, openvino"
    )
    parser.add_argument("--out", type=Path, help="JSON file; default bench/results/…")
    options = parser.parse_args()
    if options.sessions is None:
        options.sessions = placement.SESSIONS if options.figure == "placement" else _SESSIONS
    return options


def _device(wanted: str) -> str:
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        sys.exit("bench: torch finds no CUDA device here; use --device cpu")
    return "cuda" if there and wanted != "cpu" else "cpu"


def _print(figures: Figures) -> None:
    table = Table("workload", "quantity", "median", "min", "max")
    for name, quantities in figures.summary().items():
        for quantity, value in quantities.items():
            cells = (f"{value[k]:,.4g}" for k in ("median", "min", "max"))
            table.add_row(name, quantity, *cells)
            name = ""  # noqa: PLW2901 - shown once
    Console(width=120).print(table)


if __name__ == "__main__":
    sys.exit(main())
