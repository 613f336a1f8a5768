"""Sessions: which are open (directory), where each stands (table), what is in flight (window)."""

from .directory import Directory
from .lifecycle import Event, advance
from .table import SessionTable
from .window import Window

__all__ = ["Directory", "Event", "SessionTable", "Window", "advance"]
