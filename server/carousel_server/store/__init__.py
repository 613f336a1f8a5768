"""Where sessions outlive the server: stores of three kinds, and the thread that stands in front of one."""

from .faults import StoreError
from .looking import Fact
from .memory import MemoryMedium, MemoryStore
from .opening import back_up_store, check_store, look_at_store, open_store
from .sqlite import SqliteStore
from .sqlite_shared import SharedSqliteStore
from .thread import StoreThread

__all__ = [
    "Fact",
    "MemoryMedium",
    "MemoryStore",
    "SharedSqliteStore",
    "SqliteStore",
    "StoreError",
    "StoreThread",
    "back_up_store",
    "check_store",
    "look_at_store",
    "open_store",
]
