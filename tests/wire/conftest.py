"""The wire in this process, over fake engines: for what a real engine cannot be made to do."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from support.fake_engine import ECHO_TOKENS, CountingMetrics, FakeCatalog, FakeEngine
from support.link import linked
from support.signals import handlers_kept
from support.wire import Stubs

from carousel_server.__main__ import main
from carousel_server.http import HttpServer
from carousel_server.http.streams import ATTACH
from carousel_server.wire import WireOptions, WireServer

StartWire = Callable[..., Any]


@pytest.fixture
async def start_wire(request: pytest.FixtureRequest) -> AsyncIterator[StartWire]:
    """Starts a wire with given options over `engine` (echo) and `tokens` (echo-tokens)."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> SimpleNamespace:
            engine, tokens, metrics = FakeEngine(), FakeEngine(ECHO_TOKENS), CountingMetrics()
            catalog = FakeCatalog(engine, tokens)
            quotas = catalog.quotas
            if request.config.getoption("--linked"):
                catalog = await stack.enter_async_context(linked(catalog))
            transport = request.config.getoption("--transport")
            sockets = transport == "websocket"
            options.setdefault("transport", "python" if sockets else transport)
            options.setdefault("http_port", 0 if sockets else None)
            server = WireServer(catalog, WireOptions(**options), metrics)
            await server.start()
            stack.push_async_callback(server.stop, 0)
            attach_url = ""
            if sockets:
                http = HttpServer(server)
                await http.start()
                stack.push_async_callback(http.stop, 0)
                attach_url = f"ws://127.0.0.1:{http.port}{ATTACH}"
            target = f"127.0.0.1:{server.port}"
            stubs = await stack.enter_async_context(Stubs(target, attach_url=attach_url))
            return SimpleNamespace(
                server=server, engine=engine, tokens=tokens, metrics=metrics, stubs=stubs,
                target=target, stack=stack, quotas=quotas,
            )  # fmt: skip

        yield start


@pytest.fixture
async def wire(start_wire: StartWire) -> Any:
    """A wire with default options."""
    return await start_wire()


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str]]]:
    """Runs a server in this process that must not come up; returns its exit code and what it says."""
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail(f"cut off with {code}"))
    monkeypatch.setattr("carousel_server.process.main.configure_logging", lambda *_: None)
    for name in [name for name in os.environ if name.startswith("CAROUSEL_")]:
        monkeypatch.delenv(name)

    def run(*flags: str) -> tuple[int, str]:
        code = main(
            ["--port", "0", "--metrics-port", "0", "--http-port", "off", "--device", "cpu", *flags]
        )
        return code, capsys.readouterr().err

    with handlers_kept():
        yield run
