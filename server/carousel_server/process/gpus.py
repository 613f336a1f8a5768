"""The number of GPUs. As a program, it prints the number that torch finds: `python -m ….process.gpus`."""

from __future__ import annotations

import subprocess
import sys

from .config import ConfigError

_WITHIN_S = 120.0
"""The import of torch takes seconds, and more on a busy machine."""


def count_gpus() -> int:
    """Number of GPUs that torch can use here. CUDA_VISIBLE_DEVICES can hide some.

    A process of its own asks torch. So this process stays small, and holds no memory of a GPU.

    Raises:
        ConfigError: torch cannot be asked.
    """
    command = [sys.executable, "-P", "-m", "carousel_server.process.gpus"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_WITHIN_S, check=True
        )
        return int(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ConfigError(
            f"replicas=auto: the GPUs cannot be counted: {error}\nset their number: replicas=N"
        ) from error


def main() -> int:
    """Prints the number."""
    import torch

    sys.stdout.write(f"{torch.cuda.device_count() if torch.cuda.is_available() else 0}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
