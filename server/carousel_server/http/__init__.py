"""The HTTP door: JSON, raw rows and server-sent events, by the methods and limits of the wire."""

from .server import HttpServer

__all__ = ["HttpServer"]
