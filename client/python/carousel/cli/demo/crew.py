"""One process of clients: python -m carousel.cli.demo.crew ROLE MODEL CLIENTS SERVER.

It reports on stdout. It ends when its stdin is closed, and so with the demo.
"""

from __future__ import annotations

import itertools
import random
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import carousel

from .plan import Role
from .tally import Tally

REPORT_EVERY_S = 0.25
TOKENS_A_TEXT = 400
PATIENCE_S = 60.0
RETRIES = carousel.RetryPolicy(attempts=1000, max_delay_s=1.0, reconnect_s=PATIENCE_S)
"""For a server that is killed repeatedly and starts slowly on a busy machine."""

Work = Callable[[carousel.Client, str, Tally, int], None]


PROMPTS = (
    "def ",
    "class ",
    "import ",
    "    for ",
    "    if ",
    "def __init__(self",
    "    return ",
    "try:\n",
)
LARGEST_FILE_BYTES = 16_384
FILES = 40


def sunspot_rows() -> list[list[float]]:
    """Mean sunspot number of each year from 1700 to 2008, one row a year (NOAA, public domain)."""
    text = files(__package__).joinpath("sunspots.csv").read_text(encoding="utf-8")
    return [[float(line.split(",")[1])] for line in text.splitlines()[1:]]


def python_files(number: int) -> list[bytes]:
    """Some files of Python's standard library, in a different order for each client.

    Raises:
        FileNotFoundError: this Python has no source files.
    """
    library = Path(sysconfig.get_path("stdlib"))
    small = sorted(p for p in library.glob("*.py") if 0 < p.stat().st_size <= LARGEST_FILE_BYTES)
    if not small:
        raise FileNotFoundError(f"no Python source files in {library}")
    start = number * 7 % len(small)
    return [path.read_bytes() for path in (small[start:] + small[:start])[:FILES]]


def generate(client: carousel.Client, model: str, tally: Tally, number: int) -> None:
    """Writes one text after another. Client 0 is shown live."""
    rng = random.Random(number)  # noqa: S311 - which prompt comes next is no secret
    while not tally.stop.is_set():
        prompt = rng.choice(PROMPTS)
        shown = f"\n{prompt}" if number == 0 else ""
        started_s: float | None = time.monotonic()
        with tally.session():
            for token in client.generate(
                model, prompt, max_tokens=TOKENS_A_TEXT, temperature=0.6, seed=rng.getrandbits(32)
            ):
                tally.unit(started_s, shown + token.text if number == 0 else "")
                started_s, shown = (
                    None,
                    "",
                )  # several tokens may come in one message: time the first
                if tally.stop.is_set():
                    break


def stream(client: carousel.Client, model: str, tally: Tally, number: int) -> None:
    """Sends measured rows through one session. Each row waits for the forecast of the row before."""
    rows = sunspot_rows()
    with client.session(model) as session, tally.session():
        for row in itertools.cycle(rows[number:] + rows[:number]):
            if tally.stop.is_set():
                return
            started_s = time.monotonic()
            session.step(row)
            tally.unit(started_s)


def infer(client: carousel.Client, model: str, tally: Tally, number: int) -> None:
    """Sends whole files."""
    for source in itertools.cycle(python_files(number)):
        if tally.stop.is_set():
            return
        started_s = time.monotonic()
        client.infer(model, source)
        tally.unit(started_s)


WORK: dict[Role, Work] = {Role.GENERATE: generate, Role.STREAM: stream, Role.INFER: infer}


def guarded(work: Work, client: carousel.Client, model: str, tally: Tally, number: int) -> None:
    """Runs one client. Its failure is reported and ends all clients."""
    try:
        work(client, model, tally, number)
    except Exception as error:  # noqa: BLE001 - reported to the demo, which ends with it
        if not tally.stop.is_set():
            tally.fail(f"client {number}: {str(error) or type(error).__name__}")


def report_until_stopped(tally: Tally, client: carousel.Client) -> None:
    """Prints a report a few times a second, and one at the end."""
    ended = False
    while not ended:
        ended = tally.stop.wait(REPORT_EVERY_S)
        sys.stdout.write(tally.take(client.statistics().rebinds).encode() + "\n")
        sys.stdout.flush()


def watch_stdin(tally: Tally) -> None:
    """Ends the clients when stdin is closed, by the demo or by its end."""
    sys.stdin.read()
    tally.stop.set()


def main(role: str, model: str, clients: str, server: str) -> int:
    """Runs the clients until stdin is closed or one fails. Returns the exit code."""
    tally = Tally()
    threading.Thread(target=watch_stdin, args=(tally,), daemon=True).start()
    with carousel.Client(server, timeout_s=PATIENCE_S, retries=RETRIES) as client:
        threads = [
            threading.Thread(target=guarded, args=(WORK[Role(role)], client, model, tally, number))
            for number in range(int(clients))
        ]
        for thread in threads:
            thread.start()
        report_until_stopped(tally, client)
        for thread in threads:
            thread.join()
        last = tally.take(client.statistics().rebinds)
    sys.stdout.write(last.encode() + "\n")
    return 1 if last.error else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
