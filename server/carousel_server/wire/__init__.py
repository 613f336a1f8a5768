"""The gRPC face of the server: the only room that knows grpc. It speaks to engines through core.ports."""

from .addresses import ListenError, check_address, listen_error
from .options import TlsFiles, TlsPaths, WireOptions
from .secrets import SecretError, read_tls, read_tokens
from .server import WireServer

__all__ = [
    "ListenError",
    "SecretError",
    "TlsFiles",
    "TlsPaths",
    "WireOptions",
    "WireServer",
    "check_address",
    "listen_error",
    "read_tls",
    "read_tokens",
]
