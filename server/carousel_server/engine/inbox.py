"""What waits for the engine: a bounded queue of commands, filled by any thread. Tenants take turns."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import TypeVar, assert_never

import numpy as np

from carousel_server.core.errors import CarouselError
from carousel_server.core.futures import Internal
from carousel_server.core.late_acks import LateAcks
from carousel_server.core.ports import (
    Ack,
    Activate,
    Bind,
    CancelGenerate,
    Close,
    Command,
    Draft,
    Export,
    Fork,
    Generate,
    Get,
    Import,
    Infer,
    List,
    Open,
    ReadState,
    Replay,
    StepBlock,
    Unbind,
)
from carousel_server.core.quotas import Quota, Shares, quota_exceeded
from carousel_server.rows.table import SessionTable

# These make room, so they are taken when the inbox is full. Their number is bounded all the same: by
# the streams, sessions and calls that they end.
_ALWAYS_TAKEN = (CancelGenerate, Close, Internal, Unbind)

# What a session costs in a command beside its steps: its reference, tag, seq and ack.
_REF_BYTES = 256

# A tick takes no more commands of a tenant, and no more blocks once they have so many rows. So it ends in
# bounded time, whatever waits.
_MOST_COMMANDS = 4096
_MOST_ROWS = 4096

# The same while several tenants have sessions, so that the steps of one do not wait long for those of others.
_MOST_ROWS_OF_SEVERAL = 1024

# Stands for tenants without a session in this engine, and for the store's answers.
_NOBODY = -1

C = TypeVar("C", bound=Command)

Arrived = tuple[Command, float]
"""A command, and when it came."""


class Inbox:
    """Commands in order of arrival within each tenant. `put` from any thread, the rest on one.

    Two tenants never name the same session, so nothing depends on the order between them.
    """

    def __init__(
        self,
        most_commands: int,
        most_bytes: int,
        retry_after_s: float,
        table: SessionTable,
        share: float = 0.0,
    ) -> None:
        """`share`: of each tenant, see `Shares`."""
        self._most_commands = most_commands
        self._most_bytes = most_bytes
        self._retry_after_s = retry_after_s
        self._ready = threading.Condition()
        self._commands: list[Arrived] = []
        self._table = table
        # Those that `drain` has looked at and left for a later tick, by the tenant's number.
        self._queues: defaultdict[int, deque[Arrived]] = defaultdict(deque)
        # How many commands wait, their bytes, and the rows of the blocks among them.
        self._count = self._bytes = self._rows = 0
        self._command_shares = Shares(most_commands, share)
        self._byte_shares = Shares(most_bytes, share)
        # Steps in blocks, by tenant, and who wants to know of many.
        self._steps: defaultdict[str, int] = defaultdict(int)
        self._enough_steps = math.inf
        self._report: Callable[[str], None] | None = None
        # Nothing is counted by tenant where there is one.
        self._shared = share > 0
        # Acks that came while the inbox was full.
        self._late_acks = LateAcks()
        self._closed: CarouselError | None = None

    def put(self, command: Command) -> None:
        """Adds a command. Acks need no room: those that find none are merged, also those of a refused block.

        Raises:
            CarouselError: QUEUE_FULL, QUOTA_EXCEEDED, or what the inbox was closed with.
        """
        for _, error in self.put_all([command]):
            raise error

    def put_all(self, commands: Sequence[C]) -> list[tuple[C, CarouselError]]:
        """Adds commands that came together, each as `put`. Returns those that are refused, and why."""
        refused: list[tuple[C, CarouselError]] = []
        now = time.monotonic()
        sizes = _sizes(commands)
        with self._ready:
            if self._takes_all(len(commands), sum(sizes)):
                self._commands += zip(commands, repeat(now))
                self._count_in(commands, sum(sizes))
            else:
                for command, size in zip(commands, sizes, strict=True):
                    error = self._refusal(command, size)
                    if error is None:
                        self._commands.append((command, now))
                        self._count_in((command,), size)
                        if self._shared:
                            self._command_shares.take(_tenant_of(command))
                            self._byte_shares.take(_tenant_of(command), size)
                    elif self._closed is not None or not self._keeps_only_acks(command):
                        refused.append((command, error))
            self._ready.notify()
        if self._report is not None:
            tenants = {command.tenant for command in commands if isinstance(command, StepBlock)}
            for tenant in tenants:
                if self._steps.get(tenant, 0) > self._enough_steps:
                    self._report(tenant)
        return refused

    def _takes_all(self, count: int, size: int) -> bool:
        """True if no command can be refused: the usual case. The lock is held."""
        fits = self._count + count <= self._most_commands and self._bytes + size <= self._most_bytes
        return fits and self._closed is None and not self._shared

    def _count_in(self, commands: Sequence[Command], size: int) -> None:
        """Adds to what waits. The lock is held."""
        self._count += len(commands)
        self._bytes += size
        for command in commands:
            if isinstance(command, StepBlock):
                rows = len(command.refs)
                self._rows += rows
                self._steps[command.tenant] += rows * command.steps

    def drain(self) -> list[Arrived]:
        """Takes what one tick runs: at least one command of each tenant that has any.

        Acks that found the inbox full come first, so that no later block meets a window without them.
        """
        if not len(self):
            return []
        with self._ready:
            new, self._commands = self._commands, []
            late = self._late_acks.take() if self._late_acks else []
            if fits := self._fits_a_tick(len(new)):
                self._count = self._bytes = self._rows = 0
                self._steps.clear()
        taken = new if fits else self._take_some(new)
        now = time.monotonic()
        return [*((ack, now) for ack in late), *taken] if late else taken

    def _fits_a_tick(self, new: int) -> bool:
        """True if one tick may run all that waits, so that no tenant waits for its turn."""
        most_rows = self._most_rows()
        few = new == self._count <= _MOST_COMMANDS and self._rows <= most_rows
        return few and not self._shared

    def _most_rows(self) -> int:
        return _MOST_ROWS_OF_SEVERAL if self._table.tenancy.several else _MOST_ROWS

    def _take_some(self, new: Sequence[Arrived]) -> list[Arrived]:
        """The same of what may be more than one tick runs."""
        for arrived in new:
            self._queues[self._tenant(arrived[0])].append(arrived)
        taken = self._take_turns()
        with self._ready:
            self._count -= len(taken)
            for command, _ in taken:
                size = _payload_bytes(command)
                self._bytes -= size
                if isinstance(command, StepBlock):
                    self._rows -= len(command.refs)
                    self._steps[command.tenant] -= len(command.refs) * command.steps
                    if not self._steps[command.tenant]:
                        del self._steps[command.tenant]
                if self._shared:
                    self._command_shares.give_back(_tenant_of(command))
                    self._byte_shares.give_back(_tenant_of(command), size)
        return taken

    def waiting_steps(self) -> dict[str, int]:
        """Steps in blocks that wait, by tenant."""
        with self._ready:
            return dict(self._steps)

    def report(self, enough_steps: float, report: Callable[[str], None]) -> None:
        """Calls `report` with a tenant, on any thread, when more than `enough_steps` of its steps wait."""
        with self._ready:
            self._enough_steps, self._report = enough_steps, report

    def wait(self, timeout_s: float) -> None:
        """Returns when there is a command, when the inbox is closed, or after a while."""
        with self._ready:
            if not len(self) and self._closed is None:
                self._ready.wait(timeout_s)

    def close(self, error: CarouselError) -> None:
        """Refuses every later command with `error`. What is inside can still be drained."""
        with self._ready:
            self._closed = error
            self._ready.notify()

    def _take_turns(self) -> list[Arrived]:
        taken: list[Arrived] = []
        most_rows = self._most_rows()
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

    def _tenant(self, command: Command) -> int:
        """The number of the command's tenant in the table."""
        table = self._table
        match command:
            case Open() | Import() | Fork() | Draft():
                return table.tenancy.number(command.spec.tenant)
            case Infer() | List():
                return table.tenancy.number(command.tenant)
            case Activate():
                return table.tenancy.number(command.record.key.tenant)
            case StepBlock() | Ack():
                return int(table.tenant[command.refs[0][0]]) if len(command.refs) else _NOBODY
            case Bind() | Unbind() | Replay() | Generate() | CancelGenerate():
                return int(table.tenant[command.ref.row])
            case Get() | Close() | Export() | ReadState():
                return int(table.tenant[command.ref.row])
            case Internal():
                return _NOBODY
            case unknown:
                assert_never(unknown)

    def _keeps_only_acks(self, command: Command) -> bool:
        """Keeps the acks of what finds no room; True if that is all there is."""
        if isinstance(command, Ack | StepBlock):
            self._late_acks.add(command)
        return isinstance(command, Ack)

    def _refusal(self, command: Command, size: int) -> CarouselError | None:
        """Why a command is not taken, or None."""
        if self._closed is not None:
            return self._closed
        if isinstance(command, _ALWAYS_TAKEN):
            return None
        if self._count >= self._most_commands or self._bytes + size > self._most_bytes:
            return CarouselError(
                "QUEUE_FULL",
                f"{self._count} commands with {self._bytes} bytes are waiting",
                retry_after_s=self._retry_after_s,
            )
        tenant = _tenant_of(command) if self._shared else ""
        if not tenant:  # it is about a session of its caller's, of which there are so many
            return None
        for shares, amount, what in (
            (self._command_shares, 1, "commands waiting"),
            (self._byte_shares, size, "bytes of commands waiting"),
        ):
            if not shares.fits(tenant, amount):
                limit = shares.limit(tenant)
                return quota_exceeded(tenant, Quota.SHARE, what, limit, self._retry_after_s)
        return None

    def __len__(self) -> int:
        """Number of commands waiting."""
        return self._count + bool(self._late_acks)


def _tenant_of(command: Command) -> str:
    """Who sent a command, as far as it says so."""
    match command:
        case StepBlock() | Infer():
            return command.tenant
        case Open() | Import() | Fork() | Draft():
            return command.spec.tenant
        case Activate():
            return command.record.key.tenant
        case Get() | Close() | Bind() | Unbind() | Ack() | Replay() | Export() | ReadState():
            return ""
        case List() | Generate() | CancelGenerate() | Internal():
            return ""
        case unknown:
            assert_never(unknown)


def _sizes(commands: Sequence[Command]) -> list[int]:
    """The payload of each. A call for each of many blocks would cost more than all else here."""
    return [
        len(c.inputs) + len(c.resets) + _REF_BYTES * len(c.refs)
        if isinstance(c, StepBlock)
        else _payload_bytes(c)
        for c in commands
    ]


def _payload_bytes(command: Command) -> int:
    match command:
        case StepBlock():
            return _sizes([command])[0]
        case Ack():
            return _REF_BYTES * len(command.refs)
        case Infer():
            return len(command.inputs)
        case Import():
            return len(command.snapshot)
        case Activate():
            return len(command.record.snapshot)
        case Generate():
            prompt = command.spec.prompt
            return prompt.nbytes if isinstance(prompt, np.ndarray) else 0
        case Open() | Draft():
            return sum(len(data) for _, data in command.spec.state)
        case Get() | List() | Close() | Bind() | Unbind() | Replay() | CancelGenerate():
            return 0
        case Export() | ReadState() | Fork() | Internal():
            return 0
        case unknown:
            assert_never(unknown)
