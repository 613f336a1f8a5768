"""One client process of many: drives sessions at random and checks every output.

Run as `python crowd.py ADDRESS PACKAGE WIDTH SESSIONS SEED`; prints a JSON line. Sessions step alone, in
chunks and in blocks of several sessions, pause, are left and attached again; what each must give is
computed here from the package's files by the float64 reference.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import carousel

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.parity import reference

STEPS = 24
TOLERANCE = 2e-5


async def main(address: str, package: str, width: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(count, STEPS, width)).astype(np.float32)
    async with carousel.AsyncClient(address, timeout_s=90) as client:
        model = Path(package).name
        sessions = [await client.session(model) for _ in range(count)]
        groups = np.array_split(rng.permutation(count), max(count // 10, 1))
        results = await asyncio.gather(
            *(_drive(client, sessions, group, inputs, rng.integers(1 << 30)) for group in groups)
        )
        await asyncio.gather(*(session.close() for session in sessions))
    outputs: dict[int, np.ndarray] = {}
    for result in results:
        outputs |= result
    worst = max(
        float(np.abs(outputs[i] - reference.run(package, inputs[i])["y"]).max())
        for i in range(count)
    )
    print(json.dumps({"sessions": count, "steps": count * STEPS, "worst": worst}))


async def _drive(
    client: carousel.AsyncClient,
    sessions: list[Any],
    group: np.ndarray,
    inputs: np.ndarray,
    seed: int,
) -> dict[int, np.ndarray]:
    """A few sessions: the first half of the steps as one batch, the rest each by itself."""
    rng = np.random.default_rng(seed)
    members = [int(i) for i in group]
    half = STEPS // 2
    batch = client.batch([sessions[i] for i in members])
    first: list[np.ndarray] = []
    for start in range(0, half, 4):
        first.append(np.asarray(await batch.steps(inputs[members, start : start + 4])))
        await asyncio.sleep(float(rng.random()) * 0.01)
    together = np.concatenate(first, axis=1)

    async def alone(i: int) -> np.ndarray:
        at, parts = half, []
        while at < STEPS:
            n = int(rng.integers(1, 5))
            parts.append(np.asarray(await sessions[i].steps(inputs[i, at : at + n])))
            at += n
        return np.concatenate(parts)

    rest = await asyncio.gather(*(alone(i) for i in members))
    return {i: np.concatenate((together[k], rest[k])) for k, i in enumerate(members)}


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
