"""Clients of the Triton door, over fake engines and over a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.server import ServerProcess
from support.triton import TritonStubs


@pytest.fixture
async def fake(wire: Any) -> AsyncIterator[TritonStubs]:
    """A client of the wire over fake engines: `echo` gives back what it gets."""
    async with TritonStubs(wire.target) as stubs:
        yield stubs


@pytest.fixture
async def real(server: ServerProcess) -> AsyncIterator[TritonStubs]:
    """A client of a real server."""
    async with TritonStubs(server.target) as stubs:
        yield stubs
