"""Every curl command of the documentation runs, and the server answers it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.routing import Route
from support.server import ServerProcess

from .pages import PAGES, ROOT, blocks

ADDRESS = "localhost:8080"
REFUSED = {"/api/models/none"}
"""Paths of commands that show a refusal."""


@pytest.fixture(scope="module")
def zoo() -> Iterator[ServerProcess]:
    with ServerProcess(ROOT / "models/zoo", http_port=0) as server:
        yield server


def commands(page: Path) -> list[str]:
    """The lines of a page with curl and our port, with continued lines joined."""
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [line for line in lines if "curl" in line and ADDRESS in line]


def test_there_are_some() -> None:
    assert len(commands(ROOT / "docs/guides/http.md")) > 10
    assert commands(ROOT / "README.md")


@pytest.mark.parametrize(
    "page", [p for p in PAGES if commands(p)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_the_commands_run(page: Path, zoo: ServerProcess, tmp_path: Path) -> None:
    for command in commands(page):
        own = command.replace(ADDRESS, f"127.0.0.1:{zoo.http_port}")
        own = own.replace("curl ", "curl --fail-with-body ", 1)
        done = subprocess.run(
            ["bash", "-c", own], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        refused = any(path in command for path in REFUSED)
        assert (done.returncode == 0) != refused, f"{command}\n{done.stdout}\n{done.stderr}"
        assert done.stdout or "-o " in command
        if "-sSN" in command:
            assert done.stdout.startswith("data: ")
            assert '"finish_reason"' in done.stdout


async def test_the_guide_has_all_paths() -> None:
    from support.fake_engine import CountingMetrics, FakeCatalog, FakeEngine

    from carousel_server.http.app import application
    from carousel_server.http.endpoint import Endpoint
    from carousel_server.wire import WireOptions, WireServer

    wire = WireServer(FakeCatalog(FakeEngine()), WireOptions(http_port=0), CountingMetrics())
    text = (ROOT / "docs/guides/http.md").read_text()
    words = {"{model}": "MODEL", "{session}": "ID"}
    for route in application(wire).routes:
        if not isinstance(route, Route) or not isinstance(route.endpoint, Endpoint):
            continue  # WebSocket and the console have guides of their own
        if route.path.startswith("/v2"):
            continue  # so has Triton's protocol
        path = re.sub(r"\{\w+\}", lambda m: words[m[0]], route.path)
        (verb,) = (route.methods or set()) - {"HEAD"}
        assert f"`{verb} {path}`" in text, f"{verb} {path}"
