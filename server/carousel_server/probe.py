"""`python -m carousel_server.probe`: asks the server in this container whether it is ready, or alive.

For images without curl. It imports nothing but the standard library, so that a probe costs little.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping, Sequence

TIMEOUT_S = 4.0
"""Shorter than what orchestrators give a probe."""

_DEFAULT_PORT = "9464"
_ANY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
"""Addresses that a server listens on and no client can name."""


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Prints what /readyz says, or /livez for the argument "livez"; returns 0 if all is well, else 1.

    The endpoint is where CAROUSEL_METRICS_HOST and CAROUSEL_METRICS_PORT say.
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
