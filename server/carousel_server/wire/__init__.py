"""The gRPC face of the server: the only room that knows grpc. It speaks to engines through core.ports."""

from .addresses import ListenError, check_address, listen_error
from .options import TlsFiles, WireOptions
from .server import WireServer

__all__ = [
    "ListenError",
    "TlsFiles",
    "WireOptions",
    "WireServer",
    "check_address",
    "listen_error",
]
