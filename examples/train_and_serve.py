"""From plain PyTorch to a served session: trains a small LSTM, saves it, serves it, streams through it.

    python examples/train_and_serve.py

Training is train_and_save.py's. The server is `carousel serve` in a process of its own, stopped at the end.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import train_and_save

import carousel


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def serving(models: Path) -> Iterator[str]:
    """A server on the models of a folder, from its first line of output until the block ends."""
    port = free_port()
    command = [sys.executable, "-m", "carousel.cli.main", "serve", "--models", str(models)]
    command += ["--port", str(port), "--http-port", "off", "--metrics-port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            if not server.stdout.readline():
                raise SystemExit("the server did not start; its messages are above")
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()


def main(updates: int = 300) -> None:
    with tempfile.TemporaryDirectory() as folder:
        train_and_save.main(Path(folder), updates)
        wave = train_and_save.waves(1, 60)[0].numpy()
        with (
            serving(Path(folder)) as target,
            carousel.Client(target) as client,
            client.session("sine-lstm") as session,
        ):
            forecasts = np.stack(list(session.stream(wave)))[:, 0]
    # The model answers in units of the wave's amplitude; row t forecasts value t + 1.
    forecasts = forecasts * train_and_save.STD + train_and_save.MEAN
    truth, last = wave[21:, 0], wave[20:-1, 0]
    error = np.sqrt(np.mean((forecasts[20:-1] - truth) ** 2))
    naive = np.sqrt(np.mean((last - truth) ** 2))
    print(f"streamed {len(wave)} rows; error {error:.2f}, of repeating the last value {naive:.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
