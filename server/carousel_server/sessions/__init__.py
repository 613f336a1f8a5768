"""Sessions: which are open (directory), where each stands (table), what is in flight (window), what the
store has yet to confirm (ledger).
"""

from .directory import Directory
from .ledger import Ledger
from .lifecycle import Event, advance
from .table import SessionTable
from .window import Window

__all__ = ["Directory", "Event", "Ledger", "SessionTable", "Window", "advance"]
