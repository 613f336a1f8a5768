"""The gRPC face of the server: the only room that knows grpc. It speaks to engines through core.ports."""

from .addresses import ListenError, check_address, listen_error
from .native.library import NativeError
from .native.library import outlook as transport_outlook
from .options import TlsFiles, TlsPaths, WireOptions
from .secrets import SecretError, read_tls, read_tokens
from .server import WireServer
from .transport import chosen_transport

__all__ = [
    "ListenError",
    "NativeError",
    "SecretError",
    "TlsFiles",
    "TlsPaths",
    "WireOptions",
    "WireServer",
    "check_address",
    "chosen_transport",
    "listen_error",
    "read_tls",
    "read_tokens",
    "transport_outlook",
]
