"""A session's state as a value: copy it, save it, continue from it elsewhere.

python examples/snapshot_and_fork.py [host:port]
"""

from __future__ import annotations

import sys

import carousel


def main(target: str) -> None:
    with carousel.Client(target) as client, client.session("pychar-lstm", seed=1) as session:
        session.steps("class Counter:\n    def __init__(self")  # text is steps, too
        print(f"{session.applied} bytes read, state of {client.model(session.model).state_bytes}")

        # Two texts continue from one state. The prompt is read once.
        for seed in (1, 2):
            with session.fork(seed=seed) as fork:
                print(f"seed {seed}: {fork.generate(')', max_tokens=40).text()!r}")

        snapshot = session.export()  # bytes, for a file or another server with these weights
        with client.import_session(snapshot) as copy:
            print(f"{len(snapshot)} bytes of snapshot; the copy is at step {copy.applied}")
            same = copy.step(ord(")")).argmax() == session.step(ord(")")).argmax()
            print(f"both expect the same next byte: {same}")

        # Leave a session open at the server, and attach to it again by its id.
        kept = client.session("pychar-lstm", session_id="kept-for-later")
        kept.steps("import ")
        kept.detach()
        with client.attach("kept-for-later") as again:
            print(f"found again at step {again.applied}")
            again.close()


if __name__ == "__main__":
    main(*(sys.argv[1:2] or ["localhost:50051"]))
