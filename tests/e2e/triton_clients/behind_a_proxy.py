"""Sequences of `tritonclient` through a proxy, side by side, until a line comes on stdin.

Takes the proxy's address and the durability of the sequences.

Each sequence adds a prime of its own in every request. So an output says how many of its requests its state
has seen, and whether another sequence's request is in it. A request that failed may have run: nobody knows.
"""

import itertools
import sys
import threading
import time

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

MODEL, PATIENCE_S = "adding", 100.0
AGAIN = ("StatusCode.UNAVAILABLE", "StatusCode.CANCELLED", "StatusCode.INTERNAL")
"""How a request ends that is refused for now, or whose replica ends or dies (docs/guides/proxies.md)."""
PRIMES = (101, 103, 107, 109, 113, 127, 131, 137)

stop = threading.Event()
faults = []


def tensor(value):
    given = triton.InferInput("INPUT", [1, 1], "INT32")
    given.set_data_from_numpy(np.full([1, 1], value, np.int32))
    return given


class Sequence:
    def __init__(self, client, number, durability):
        self.client, self.number, self.prime = client, number, PRIMES[number]
        self.durability = durability
        self.steps = 0
        self.unsure = 0
        self.refused = 0

    def request(self, start):
        """The output of one request, which is made again while the servers come and go."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                result = self.client.infer(
                    MODEL,
                    [tensor(self.prime)],
                    sequence_id=self.number + 1,
                    sequence_start=start,
                    parameters={"durability": self.durability} if start else None,
                    headers={"carousel-session": f"triton:{MODEL}:{self.number + 1}"},
                )
                return int(result.as_numpy("OUTPUT")[0][0])
            except InferenceServerException as error:
                if error.status() not in AGAIN or time.monotonic() > give_up:
                    raise
                self.refused += 1
                self.unsure += not start  # a START that is made again starts over again
                time.sleep(0.05)

    def run(self):
        for n in itertools.count():
            total = self.request(start=n == 0)
            assert total % self.prime == 0, f"{self.number}: {total} has another sequence's input"
            count = total // self.prime
            sent = f"{self.steps + 1} to {self.steps + 1 + self.unsure}"
            assert 0 <= count - self.steps - 1 <= self.unsure, f"{self.number}: {count}, not {sent}"
            self.steps, self.unsure = count, 0
            if n % 20 == 19:
                print(f"{self.number} {self.steps}\n", end="", flush=True)
            if stop.is_set():
                return


def run(sequence):
    try:
        sequence.run()
    except BaseException as error:  # noqa: BLE001 - it is told at the end
        said = f"{error!r} {error}"  # the repr of tritonclient's exception is empty
        faults.append(" ".join(said.split()))
        print(f"FAULT {faults[-1]}\n", end="", flush=True)


def main(address, durability):
    clients = [triton.InferenceServerClient(address) for _ in range(2)]
    sequences = [Sequence(clients[number % 2], number, durability) for number in range(len(PRIMES))]
    threads = [threading.Thread(target=run, args=(sequence,)) for sequence in sequences]
    for thread in threads:
        thread.start()
    sys.stdin.readline()
    stop.set()
    for thread in threads:
        thread.join()
    print(sum(s.steps for s in sequences), "steps", sum(s.refused for s in sequences), "refused")
    print("FAIL" if faults else "PASS")


main(*sys.argv[1:])
