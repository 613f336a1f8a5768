"""Many sessions on one connection, with asyncio.

python examples/async_client.py [host:port]
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import carousel


async def sensor(number: int) -> AsyncIterator[list[float]]:
    """A live source."""
    for t in range(20):
        await asyncio.sleep(0)  # a real source waits here
        yield [10.0 * number + t]


async def forecast(client: carousel.AsyncClient, number: int) -> str:
    async with client.session("sunspots-gru") as session:
        outputs = [float(y[0]) async for y in session.stream(sensor(number))]
        return f"sensor {number}: {len(outputs)} forecasts, the last {outputs[-1]:.1f}"


async def main(target: str) -> None:
    async with carousel.AsyncClient(target) as client:
        for line in await asyncio.gather(*[forecast(client, n) for n in range(10)]):
            print(line)
        async with client.generate("pychar-lstm", "import ", max_tokens=1000) as generation:
            async for token in generation:
                print(token.text, end="", flush=True)
                if token.text == "\n":
                    break  # leaving the block cancels the generation at the server
        print()


if __name__ == "__main__":
    asyncio.run(main(*(sys.argv[1:2] or ["localhost:50051"])))
