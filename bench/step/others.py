"""The other end of `other_peers`: a process that measures when it is asked."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .cases import Case


class Others:
    """Libraries in another interpreter, one case at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.versions: dict[str, str] = self._answer()

    def take(self, case: Case) -> list[str]:
        """Makes a case ready; the names of the libraries that can run it."""
        names: list[str] = self._ask({"case": asdict(case) | {"threads": torch.get_num_threads()}})
        return names

    def measure(self, library: str, seconds: float) -> float:
        """Microseconds of a step."""
        return float(self._ask({"library": library, "seconds": seconds}))

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the program that measures other libraries has ended")
        return json.loads(line)


@contextmanager
def start(python: str) -> Iterator[Others]:
    """Starts the program with an interpreter that may have the libraries."""
    program = Path(__file__).with_name("other_peers.py")
    with subprocess.Popen(
        [python, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Others(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=10)
