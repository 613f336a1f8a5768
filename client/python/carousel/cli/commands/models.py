"""`carousel models`: lists, checks, creates and imports models of a server or a folder."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from carousel.cli.connect import connected
from carousel.cli.exits import CliError, ExitCode, did_you_mean, usage_error
from carousel.cli.options import Options, Output, command
from carousel.cli.printing import Record, note, print_json, print_line, print_record, print_records
from carousel.cli.states import described

from .importing import register_import

if TYPE_CHECKING:
    import carousel
    from carousel_models import Manifest

COLUMNS = ("name", "cell", "layers", "hidden", "input", "causal", "generative", "description")
Folder = Annotated[
    Path | None, typer.Option("--dir", help="Folder of packages, instead of a server.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(no_args_is_help=True, help="List, show, check, create and import models.")
    app.add_typer(group, name="models")

    @command(group, "list")
    def list_models(options: Options, dir_: Folder = None) -> None:
        """List the models of a server, or the packages in a folder."""
        records = served(options) if dir_ is None else packaged(dir_)
        print_records(options, records, COLUMNS)

    @command(group, "show")
    def show(options: Options, name: str, dir_: Folder = None) -> None:
        """Show one model of a server or a folder."""
        records = {r["name"]: r for r in (served(options) if dir_ is None else packaged(dir_))}
        if name not in records:
            place = options.server if dir_ is None else str(dir_)
            code = ExitCode.REFUSED if dir_ is None else ExitCode.USAGE
            raise CliError(f"{place} has no model '{name}'", did_you_mean(name, records), code)
        print_record(options, records[name])

    @command(group, "check")
    def check(
        options: Options,
        path: Annotated[Path, typer.Argument(help="A package, or a folder of packages.")],
        allow_custom: Annotated[
            list[str] | None,
            typer.Option(
                metavar="MODULE:CLASS",
                help="A custom module that packages may import and run. May be repeated.",
            ),
        ] = None,
    ) -> None:
        """Load packages and check them: files, shapes, fingerprint, probe outputs, custom modules."""
        names = [name for given in allow_custom or [] for name in given.split(",")]
        check_all(options, path, names)

    register_create(group)
    register_import(group)


def register_create(group: typer.Typer) -> None:
    """Adds `carousel models create`."""

    @command(group, "create")
    def create(
        options: Options,
        name: str,
        cell: Annotated[
            str, typer.Option(help="Such as rnn, lstm or gru. The name help lists all.")
        ] = "lstm",
        layers: Annotated[int, typer.Option(min=1, help="Number of layers.")] = 1,
        hidden: Annotated[int, typer.Option(min=1, help="Hidden size of each layer.")] = 256,
        input_: Annotated[
            str, typer.Option("--input", help="features:WIDTH or tokens:VOCABULARY[xEMBEDDING].")
        ] = "features:64",
        output: Annotated[
            int | None,
            typer.Option("--output", help="Width of the head. 0 for no head.", show_default=False),
        ] = None,
        dtype: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
        seed: Annotated[int, typer.Option(help="Seed of the weights.")] = 0,
        dir_: Annotated[Path, typer.Option("--dir", help="Folder of the new package.")] = Path(),
        bidirectional: Annotated[
            bool, typer.Option("--bidirectional", help="Make it bidirectional.")
        ] = False,
        proj_size: Annotated[
            int, typer.Option(min=0, help="Width of the projected output, for cells that have it.")
        ] = 0,
        option: Annotated[
            list[str] | None,
            typer.Option(
                metavar="NAME=VALUE", help="An option of the cell, as heads=4. May be repeated."
            ),
        ] = None,
        overwrite: Annotated[
            bool, typer.Option("--overwrite", help="Replace an existing package.")
        ] = False,
    ) -> None:
        """Create a model with random weights, for capacity planning and tests."""
        import carousel_models

        manifest = carousel_models.create(
            name, cell=known_cell(cell), layers=layers, hidden=hidden, input=known_input(input_),
            output=output,
            dtype=dtype, seed=seed, dir=dir_, bidirectional=bidirectional, proj_size=proj_size,
            options=known_options(cell, option or []), overwrite=overwrite,
        )  # fmt: skip
        if options.output is Output.JSON:
            print_json(of_manifest(manifest))
        else:
            print_line(f"created {dir_ / name}: {manifest.description}")


def known_input(form: str) -> str:
    """Kind and sizes of an input, from features:WIDTH or tokens:VOCABULARY[xEMBEDDING]."""
    if not re.fullmatch(r"features:\d+|tokens:\d+(x\d+)?", form):
        raise usage_error(
            f"'{form}' is not an input",
            "write features:WIDTH or tokens:VOCABULARY, as in features:64",
        )
    return form


def known_cell(name: str) -> Any:
    """A cell's name. "rnn" is rnn_tanh, as in torch."""
    from carousel_models.cell_facts import FACTS

    name = "rnn_tanh" if name == "rnn" else name
    if name not in FACTS:
        raise usage_error(f"there is no cell '{name}'", did_you_mean(name, FACTS, shown=len(FACTS)))
    return name


def known_options(cell: str, given: Sequence[str]) -> dict[str, bool | int]:
    """Options of a cell from NAME=VALUE. A value is true, false or an integer."""
    from carousel_models.cell_facts import facts_of

    known, found = facts_of(known_cell(cell)).options, dict[str, bool | int]()
    for text in given:
        name, _, value = text.partition("=")
        if name not in known:
            listed = "; ".join(f"{name}: {option.meaning}" for name, option in known.items())
            raise usage_error(
                f"the cell {cell} has no option '{name}'", f"its options: {listed or 'none'}"
            )
        truth = {"true": True, "false": False}.get(value)
        if truth is None and not re.fullmatch(r"\d+", value):
            raise usage_error(f"'{text}' has no value", f"write {name}=true or {name}=4")
        found[name] = int(value) if truth is None else truth
    return found


def served(options: Options) -> list[Record]:
    """The server's models."""
    with connected(options) as client:
        return [of_model(model) for model in client.models()]


def packaged(folder: Path) -> list[Record]:
    """The manifests of the packages in a folder."""
    import carousel_models

    if not folder.is_dir():
        raise usage_error(f"there is no folder {folder}", "name a folder of model packages")
    return [
        of_manifest(carousel_models.read_manifest(path))
        for path in carousel_models.discover(folder)
    ]


def of_model(model: carousel.ModelInfo) -> Record:
    """A served model as a record."""
    record = asdict(model)
    outputs = ", ".join(f"{field.name}:{math.prod(field.shape)}" for field in model.outputs)
    source = shown_input(model.vocabulary, math.prod(model.input.shape), model.signal)
    lists = {"labels": list(model.labels), "initials": list(model.initials)}
    return record | {"input": source, "outputs": outputs, "states": described(model.states)} | lists


class Rated(Protocol):
    """What is known of a signal."""

    @property
    def rate(self) -> int:
        """Samples a second."""


def shown_input(vocabulary: int, width: int, signal: Rated | None) -> str:
    """Kind and size of an input: tokens:256, features:3, or frames:512@16000 with the samples a second."""
    if signal is not None:
        return f"frames:{width}@{signal.rate}"
    return f"tokens:{vocabulary}" if vocabulary else f"features:{width}"


def of_manifest(manifest: Manifest) -> Record:
    """A package's manifest as a record."""
    source, decoder = manifest.input, manifest.decoder
    return {
        "name": manifest.name,
        "cell": manifest.cell,
        "layers": len(manifest.stack),
        "hidden": manifest.hidden,
        "input": shown_input(
            manifest.vocabulary,
            math.prod(source.row.shape),
            source if source.kind == "frames" else None,
        ),
        "output": manifest.output_width,
        "compute_dtype": manifest.dtype,
        "causal": manifest.causal,
        "generative": manifest.generative,
        "decoder": decoder
        and {
            "vocabulary": decoder.input.vocabulary,
            "start": decoder.start,
            "stop": decoder.stop,
            "most": decoder.most,
        },
        "tokenizer": manifest.tokenizer,
        "labels": list(manifest.labels),
        "states": described(manifest.states),
        "initials": list(manifest.initial_names),
        "fingerprint": manifest.fingerprint,
        "training": dict(manifest.training),
        "description": manifest.description,
    }


def check_all(options: Options, path: Path, allow_custom: Sequence[str] = ()) -> None:
    """Checks each package below `path` and prints the results.

    Raises:
        CliError: a package has a fault, or there are no packages.
    """
    import carousel_models

    if not path.is_dir():
        raise usage_error(f"there is no folder {path}", "name a package, or a folder of packages")
    reports = [
        carousel_models.check(package, allow_custom=allow_custom)
        for package in carousel_models.discover(path)
    ]
    if not reports:
        raise usage_error(
            f"no packages in {path}", "make one: carousel models create NAME --dir DIR"
        )
    records = [
        {
            "package": report.path.name,
            "ok": report.ok,
            "parameters": report.parameters if report.ok else None,
            "state_bytes": report.state_bytes if report.ok else None,
            "probe_error": report.probe_error if report.ok else None,
            "error": report.error or None,
        }
        for report in reports
    ]
    bad = [report for report in reports if not report.ok]
    columns = ("package", "ok", "parameters", "state_bytes", "probe_error")
    print_records(options, records, columns)
    *others, last = [report.error for report in bad] or [""]
    for error in others:
        note(f"carousel: {error}")
    if bad:
        cause, _, fix = last.rpartition("; ")
        raise CliError(cause or fix, fix if cause else "")
