"""A Carousel server for your own tests: a gRPC server on a loopback port, with a model of yours.

    from carousel.testing import FakeModel, FakeServer

    double = FakeModel("double", step=lambda x, state: (2 * x + state, state + 1), features=1)
    with FakeServer(double) as server, carousel.Client(server.target) as client:
        server.inject("Step", "QUEUE_FULL", retry_after_s=0.01)
        ...

It keeps sessions, checks step numbers and answers repeated steps as a real server does. It has no quotas.
With `FakeServer(…, durable=True)` sessions have a store. `crash` and `drain` then restart the server.
"""

from .model import FakeModel
from .server import FakeServer

__all__ = ["FakeModel", "FakeServer"]
