"""A small network in a sandbox, for tests of both.

`python -m tests.cluster.probe` says which hosts reach each other under each kind of cut. With the argument
`wait` it says that it is ready, and goes on until it is ended.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import nullcontext

from . import sandbox
from .network import Cut, Host, Network

_ASK = "import socket,sys; socket.create_connection((sys.argv[1], 7000), 0.5).close()"
_UPTIME = "import time; print(time.monotonic())"
_SHIFT_S = 5000
_LISTEN = """
import socket
with socket.create_server(("0.0.0.0", 7000)) as listening:
    print("ready", flush=True)
    while True:
        listening.accept()[0].close()
"""


def main(arguments: list[str]) -> int:
    if not sandbox.is_inside():
        return sandbox.run("tests.cluster.probe", arguments)
    sandbox.enter()
    network = Network()
    a, b, c = (network.add(name) for name in "abc")
    for host in (a, b, c):
        listening = subprocess.Popen(
            [*host.inside, sys.executable, "-c", _LISTEN], stdout=subprocess.PIPE
        )
        assert listening.stdout is not None
        assert listening.stdout.readline() == b"ready\n"
    if arguments:
        print("ready", flush=True)
        threading.Event().wait()
    cuts = {"none": nullcontext(), "both": Cut([a], [b, c]), "to": Cut([a], [b], "to")}
    found = {}
    for name, cut in cuts.items():
        with cut:
            found[name] = _pairs(a, b, c)
    found["mended"] = _pairs(a, b, c)
    before_s = time.monotonic()
    a.shift_uptime(_SHIFT_S)
    said = subprocess.run(
        [*a.inside, sys.executable, "-c", _UPTIME], capture_output=True, text=True
    )
    ahead = _SHIFT_S <= float(said.stdout) - before_s < _SHIFT_S + 60
    print(json.dumps({"reached": found, "clock_is_ahead": ahead}), flush=True)
    return 0


def _pairs(*hosts: Host) -> list[str]:
    """All that reach another one, as "ab" if a reaches b."""
    asked = {
        one.name + other.name: subprocess.Popen(
            [*one.inside, sys.executable, "-c", _ASK, other.address], stderr=subprocess.DEVNULL
        )
        for one in hosts
        for other in hosts
        if one is not other
    }
    return sorted(pair for pair, process in asked.items() if process.wait(30) == 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
