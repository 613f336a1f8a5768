"""A process of clients, driven by lines of its standard input.

Run as `python -m tests.cluster.client JSON`, with the fields of `Work`. It answers each line with a line of
JSON: `advance` when every session has had another output, `finish` when all sessions are closed and what they
have got is in the file. If an application gets an error it says which, and ends.
"""

from __future__ import annotations

import collections
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.chaos.load import Load, Shape
from tests.chaos.tracks import StepTrack

from . import records
from .outside import Outsiders


@dataclass(frozen=True)
class Work:
    """What a process of clients does.

    Attributes:
        target: of the clients.
        file: where it writes what its sessions have got.
        levels: durabilities, which the sessions have in turn.
        shape: fields of `Shape`.
        outsiders: sessions beside these that come by the proxy at `proxy`.
    """

    target: str
    file: str
    levels: tuple[str, ...]
    shape: dict[str, object]
    outsiders: int = 0
    proxy: str = ""

    def text(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


class RecordedLoad(Load):
    """A load whose outputs the harness judges."""

    def __init__(self, work: Work) -> None:
        shape = Shape(**work.shape)  # type: ignore[arg-type]
        super().__init__(work.target, Path(), "", levels=work.levels, shape=shape)
        self._file = Path(work.file)
        self._outsiders = Outsiders(work.proxy)
        for _ in range(work.outsiders):
            self.add(self._outsiders.drive, 1, StepTrack)

    def check(self) -> None:
        """Writes the file."""
        record = records.of_clients(self.tracks, self.statistics)
        record.refusals += self._outsiders.refusals
        records.save(self._file, record)


def main(text: str) -> int:
    load = RecordedLoad(Work(**json.loads(text)))
    try:
        with load:
            _tell("started", sessions=len(load.tracks))
            for line in sys.stdin:
                if line == "finish\n":
                    break
                load.advance()
                _tell("advanced", steps=load.steps)
        _tell("finished", steps=load.steps)
    except BaseException as error:  # noqa: BLE001 - the harness raises it
        names = collections.Counter(type(one).__name__ for one in load.errors)
        _tell("failed", errors=names or {type(error).__name__: 1}, text=_whole(load, error))
        return 1
    return 0


def _whole(load: Load, error: BaseException) -> str:
    return "; ".join(dict.fromkeys(str(one) for one in [*load.errors, error]))


def _tell(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
