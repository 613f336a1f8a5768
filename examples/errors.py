"""Each error has a name, a cause and a fix. A session survives it.

python examples/errors.py [host:port]
"""

from __future__ import annotations

import sys

import carousel


def main(target: str) -> None:
    with carousel.Client(target, timeout_s=10, retries=3) as client:
        try:
            client.session("no-such-model")
        except carousel.ModelNotFoundError as error:
            print(error, "\n")

        try:
            client.session("pytag-bilstm")
        except carousel.ModelNotCausalError as error:
            print(error, "\n")

        with client.session("sunspots-gru") as session:
            session.step([5.0])
            try:
                session.step([float("nan")])
            except carousel.InvalidInputError as error:  # a category of errors: the input is wrong
                print(error, "\n")
            session.step([11.0])  # the session did not change, and continues
            print(f"{session.applied} steps have run\n")
            session.close()
            try:
                client.attach(session.id)
            except carousel.NotFoundError as error:
                print(f"{type(error).__name__}: {error.reason}")

    # The client tries refusals that pass (RefusedError, such as a full queue) again inside the call,
    # after the server's delay, until timeout_s.


if __name__ == "__main__":
    main(*(sys.argv[1:2] or ["localhost:50051"]))
