"""A replica for tests of the supervisor: `replica_program.py FOLDER NUMBER PARENT`.

FOLDER/NUMBER.acts has what its lives do, one a line. The last line is repeated. "serve" is a good replica.
"exit N" ends before it is ready, and "crash N" directly after. "deaf" does not answer checks. "stubborn"
ignores SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Alive(BaseHTTPRequestHandler):
    """Answers every check."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


class ReusableServer(HTTPServer):
    allow_reuse_address = True


def end_with_supervisor() -> None:
    """As a real replica: it ends when the other end of stdin is closed, also in a test run that is killed."""
    while os.read(0, 1):
        pass
    os._exit(1)


def main(folder: Path, number: int) -> None:
    settings = json.loads(sys.stdin.buffer.raw.readline())
    threading.Thread(target=end_with_supervisor, daemon=True).start()
    acts = (folder / f"{number}.acts").read_text().splitlines()
    with (folder / "lives").open("a") as journal:
        journal.write(f"{number} {os.getpid()}\n")
    lives = [one.split()[0] for one in (folder / "lives").read_text().splitlines()]
    act, _, code = acts[min(lives.count(str(number)), len(acts)) - 1].partition(" ")
    if act == "exit":
        sys.exit(int(code))
    # The signal is waited for, not handled. A handler that sets an event can wait for the lock that its own
    # thread holds while it waits for that event.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    address = ("127.0.0.1", settings["metrics_port"])
    if act == "deaf":
        deaf = socket.create_server(address)
        port = deaf.getsockname()[1]
    else:
        server = ReusableServer(address, Alive)
        port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
    facts = {"event": "ready", "pid": os.getpid(), "port": settings["port"] or 6000 + number}
    facts |= {"metrics_port": port, "models": ["m"], "store": "none", "host": "127.0.0.1"}
    print("a line of a custom module", flush=True)
    print(json.dumps(facts), flush=True)
    if act == "crash":
        os._exit(int(code))
    while signal.sigwait({signal.SIGTERM}) and act == "stubborn":
        pass


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
