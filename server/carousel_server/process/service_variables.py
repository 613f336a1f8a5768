"""Variables that Kubernetes and Docker put into a container for the services beside it.

A Service named `carousel` gives CAROUSEL_PORT=tcp://10.0.0.1:50051, CAROUSEL_SERVICE_HOST and others; one
named `carousel-store` gives CAROUSEL_STORE_PORT. They have the prefix of our settings and are none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_LINK = re.compile(r"(?:tcp|udp|sctp)://.+", re.IGNORECASE)
_OF_A_PORT = re.compile(r".*_PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?")
_OF_A_SERVICE = re.compile(r"(.*_SERVICE)_(?:HOST|PORT(?:_[A-Z0-9_]+)?)")


def service_variables(variables: Mapping[str, str], prefix: str) -> list[str]:
    """Names with the prefix that describe a service, in order.

    A name alone does not make one: NAME_PORT must hold an address such as tcp://10.0.0.1:50051, and the
    those of NAME_SERVICE always come as a HOST and a PORT at least.
    """
    return sorted(
        name
        for name, value in variables.items()
        if name.startswith(prefix) and _describes_a_service(name, value, variables)
    )


def _describes_a_service(name: str, value: str, variables: Mapping[str, str]) -> bool:
    if name.endswith("_PORT") and _LINK.fullmatch(value):
        return True
    if _OF_A_PORT.fullmatch(name):
        return True
    service = _OF_A_SERVICE.fullmatch(name)
    return service is not None and {f"{service[1]}_HOST", f"{service[1]}_PORT"} <= variables.keys()
