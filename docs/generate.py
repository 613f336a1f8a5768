"""Writes docs/reference/{metrics,errors,settings}.md, the diagrams and Kubernetes' alerts; --check compares.

python docs/generate.py [--check]
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pydantic_core import PydanticUndefined

from carousel._core import lifecycle as lanes
from carousel_protos.errors import ERRORS
from carousel_server.metrics import METRICS
from carousel_server.process.config import PREFIX, Settings
from carousel_server.rows import lifecycle as sessions

ROOT = Path(__file__).parents[1]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. Bars in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


def code(text: str) -> str:
    """Text as code; nothing stays nothing."""
    return f"`{text}`" if text else ""


def metrics() -> str:
    """Every series that a server exposes."""
    rows = (
        (
            code(told.name),
            told.kind,
            told.unit,
            ", ".join(map(code, told.labels)),
            told.help,
        )
        for told in METRICS.values()
    )
    buckets: dict[tuple[float, ...], list[str]] = {}
    for told in METRICS.values():
        if told.buckets:
            buckets.setdefault(told.buckets, []).append(code(told.name))
    bounds = "\n".join(
        f"- {', '.join(names)}: {', '.join(f'{edge:g}' for edge in edges)}"
        for edges, names in buckets.items()
    )
    return (
        "# Metrics\n\nServed at `/metrics` on `metrics_host:metrics_port`, as Prometheus text or "
        "OpenMetrics. No label has values that a client can choose. How to read them: "
        "[monitoring](../guides/monitoring.md).\n\n"
        + table(("Name", "Type", "Unit", "Labels", "Meaning"), rows)
        + f"\n## Buckets\n\nUpper bounds of the histograms, +Inf not written.\n\n{bounds}\n"
    )


def errors() -> str:
    """Every refusal and failure, with its SDK exception."""
    rows = (
        (
            code(spec.reason),
            spec.code.name,
            code(spec.exception),
            spec.actor.value,
            spec.meaning,
            spec.fix,
        )
        for spec in ERRORS.values()
    )
    return (
        "# Errors\n\nEvery refusal is a `google.rpc.Status` whose ErrorInfo has the domain `carousel` "
        "and one of these reasons; the SDK raises the exception of the same name. A reason is never "
        "renamed.\n\n"
        + table(("Reason", "Status code", "Exception", "Who acts", "Meaning", "Fix"), rows)
    )


def _default(name: str) -> str:
    value = Settings.model_fields[name].default
    if value is PydanticUndefined:
        factory = Settings.model_fields[name].default_factory
        # A folder of the installation is not the same on two machines; an empty table is.
        return code("{}") if factory is dict else "see there"
    if isinstance(value, bool):
        return code(str(value).lower())
    return code("" if value is None else str(value))


def settings() -> str:
    """Every setting of `carousel serve`."""
    rows = (
        (code(name), code(PREFIX + name.upper()), _default(name), field.description or "")
        for name, field in Settings.model_fields.items()
    )
    return (
        "# Settings\n\nCommand line (`--set name=value`; the most used are flags as well) > environment > "
        "TOML file (`--config FILE`) > default. An unknown name is an error. `carousel config show` prints "
        "each value and where it came from.\n\n"
        + table(("Setting", "Environment", "Default", "Meaning"), rows)
    )


def drawn(page: str, diagram: str) -> str:
    """A page with `diagram` as its Mermaid block."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.sub(r"(?s)(?<=\n```mermaid\n).*?(?=\n```\n)", lambda _: diagram, text, count=1)


def prometheus_rule() -> str:
    """The alerts of deploy/prometheus as a resource of the Prometheus operator."""
    alerts = (ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8")
    return (
        "# Made by docs/generate.py from deploy/prometheus/alerts.yml; do not edit.\n"
        "apiVersion: monitoring.coreos.com/v1\n"
        "kind: PrometheusRule\n"
        "metadata:\n"
        "  name: carousel\n"
        "  labels: {app.kubernetes.io/name: carousel, app.kubernetes.io/component: server}\n"
        "spec:\n" + textwrap.indent(alerts, "  ")
    )


NOTE = "<!-- Made by docs/generate.py; do not edit. -->\n\n"
PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/metrics.md": lambda: NOTE + metrics(),
    "docs/reference/errors.md": lambda: NOTE + errors(),
    "docs/reference/settings.md": lambda: NOTE + settings(),
    "ARCHITECTURE.md": lambda: drawn("ARCHITECTURE.md", sessions.diagram()),
    "docs/guides/sdk.md": lambda: drawn("docs/guides/sdk.md", lanes.diagram()),
    "deploy/kubernetes/components/monitoring/prometheus-rule.yaml": prometheus_rule,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the pages, or compares them; 1 if one is out of date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args(argv).check
    stale = []
    for name, page in PAGES.items():
        path, text = ROOT / name, page()
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        sys.stderr.write(f"out of date: {', '.join(stale)}; run python docs/generate.py\n")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
