"""`python -m carousel_server.probe`: checks whether the server in this container is ready, or alive.

It is for images without curl. It imports only the standard library, so that a probe is cheap.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping, Sequence

TIMEOUT_S = 4.0
"""Time-out, shorter than those of orchestrators."""

_DEFAULT_PORT = "9464"
_ANY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
"""Addresses that a server can listen on, with the address for its clients."""


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Prints the answer of /readyz, or of /livez for the argument "livez". Returns 0 if it is ok, else 1.

    CAROUSEL_METRICS_HOST and CAROUSEL_METRICS_PORT have the address of the endpoint.
    """
    path = arguments[0] if arguments else "readyz"
    if path not in ("readyz", "livez"):
        sys.stderr.write("usage: python -m carousel_server.probe [readyz|livez]\n")
        return 2
    host = environment.get("CAROUSEL_METRICS_HOST", "").strip("[]")
    port = environment.get("CAROUSEL_METRICS_PORT", "")
    try:
        number = int(port if port.isdecimal() else _DEFAULT_PORT)
        link = http.client.HTTPConnection(_ANY.get(host, host), number, timeout=TIMEOUT_S)
        link.request("GET", f"/{path}")
        reply = link.getresponse()
        text, well = reply.read().decode(errors="replace"), reply.status == 200
        link.close()
    except (OSError, http.client.HTTPException) as error:
        text, well = f"no answer at port {port or _DEFAULT_PORT}: {error}\n", False
    sys.stdout.write(text)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
