"""The gRPC face of the server: the only room that knows grpc. It speaks to engines through core.ports."""

from .options import TlsFiles, WireOptions
from .server import PortInUseError, WireServer

__all__ = ["PortInUseError", "TlsFiles", "WireOptions", "WireServer"]
