"""Commands that wait for a tick: those of each tenant in order, and the tenants in turns."""

from __future__ import annotations

from collections import deque
from typing import assert_never

from carousel_server.core.ports import (
    Ack,
    Activate,
    Bind,
    CancelGenerate,
    Close,
    Command,
    Committed,
    Export,
    Fork,
    Generate,
    Get,
    Import,
    Infer,
    List,
    Open,
    Replay,
    StepBlock,
    Unbind,
)
from carousel_server.rows.table import SessionTable

# A tick takes no more commands of a tenant, and no more blocks once they have so many rows. So it ends in
# bounded time, whatever waits.
_MOST_COMMANDS = 4096
_MOST_ROWS = 4096

# The same while several tenants have sessions, so that the steps of one do not wait long for those of others.
_MOST_ROWS_OF_SEVERAL = 1024

# Stands for tenants without a session in this engine, and for the store's answers.
_NOBODY = -1

Arrived = tuple[Command, float]
"""A command, and when it came."""


class TenantQueues:
    """Commands in order of arrival within each tenant. Used on the engine's thread only.

    Two tenants never name the same session, so nothing depends on the order between them.
    """

    def __init__(self, table: SessionTable) -> None:
        self._table = table
        self._queues: dict[int, deque[Arrived]] = {}

    def add(self, arrived: Arrived) -> None:
        """Takes the next command."""
        tenant = self._tenant(arrived[0])
        queue = self._queues.get(tenant)
        if queue is None:
            queue = self._queues[tenant] = deque()
        queue.append(arrived)

    def take(self) -> list[Arrived]:
        """What one tick runs: at least one command of each tenant that has any."""
        taken: list[Arrived] = []
        most_rows = _MOST_ROWS_OF_SEVERAL if self._table.tenancy.several else _MOST_ROWS
        for tenant, queue in list(self._queues.items()):
            rows = 0
            for _ in range(min(len(queue), _MOST_COMMANDS)):
                taken.append(arrived := queue.popleft())
                if isinstance(arrived[0], StepBlock):
                    rows += len(arrived[0].refs)
                    if rows >= most_rows:
                        break
            if not queue:
                del self._queues[tenant]
        return taken

    def __bool__(self) -> bool:
        """True if a command waits."""
        return bool(self._queues)

    def _tenant(self, command: Command) -> int:
        """The number of the command's tenant in the table."""
        table = self._table
        match command:
            case Open() | Import() | Fork():
                return table.tenancy.number(command.spec.tenant)
            case Infer() | List():
                return table.tenancy.number(command.tenant)
            case Activate():
                return table.tenancy.number(command.record.key.tenant)
            case StepBlock() | Ack():
                return int(table.tenant[command.refs[0].row]) if command.refs else _NOBODY
            case Bind() | Unbind() | Replay() | Generate() | CancelGenerate():
                return int(table.tenant[command.ref.row])
            case Get() | Close() | Export():
                return int(table.tenant[command.ref.row])
            case Committed():
                return _NOBODY
            case unknown:
                assert_never(unknown)
