"""One run of a command of ``[app.commands]``: its output as it comes, and how it ended.

Invariants:

- No shell and no terminal: the program gets the row as JSON on stdin, and a session of its own.
- In a read-only app the program is told so by `READ_ONLY_VARIABLE`, which `ctl` heeds.
- At most `MAX_OUTPUT_BYTES` of output are kept; the rest is read and counted, so that a program never blocks.
- After its time, or when it is stopped, the program and its children are killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Mapping
from typing import Any, Final

from grapevine_proto.errors import InvalidArgument
from grapevine_proto.storage.permissions import UntrustedFile, check_program
from grapevine_tui.config.environment import READ_ONLY_VARIABLE
from grapevine_tui.config.own_commands import MissingField, OwnCommand
from grapevine_tui.control.jsonlines import encode_event
from grapevine_tui.service.hooks import child_environment, result_from_status
from grapevine_tui.text import printable_lines

MAX_OUTPUT_BYTES: Final = 256 * 1024
READ_CHUNK_BYTES: Final = 16 * 1024
MAX_LINES: Final = 5_000  # shown
GOOD_OUTCOME: Final = "exit status 0"


class OwnCommandRun:
    """A run of `command` for the row with these fields of JSON. Raises InvalidArgument if it cannot begin."""

    def __init__(
        self, command: OwnCommand, row: Mapping[str, Any], *, is_readonly: bool = False
    ) -> None:
        self.command = command
        self._environment = {READ_ONLY_VARIABLE: "1"} if is_readonly else {}
        try:
            self.argv = command.arguments_for(row)
        except MissingField as problem:
            raise InvalidArgument(f"{command.name}: {problem}") from None
        self._line = encode_event("row", row)
        self._output = bytearray()
        self._left_out = 0
        self._started_at = time.monotonic()
        self._ended_at: float | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stopped = asyncio.Event()
        self.outcome = ""
        """How it ended; empty while it runs."""

    @property
    def duration_s(self) -> float:
        return (time.monotonic() if self._ended_at is None else self._ended_at) - self._started_at

    def lines(self) -> list[str]:
        """The output so far, printable."""
        lines = printable_lines(self._output.decode(errors="replace").rstrip("\n"))
        if self._left_out or len(lines) > MAX_LINES:
            rest = sum(len(each) + 1 for each in lines[MAX_LINES:]) + self._left_out
            lines = [*lines[:MAX_LINES], f"… {rest:,} bytes more"]
        return [] if lines == [""] else lines

    async def run(self) -> None:
        """Run the program to its end."""
        try:
            self.outcome = await self._run()
        finally:
            self._ended_at = time.monotonic()
            self.outcome = self.outcome or "stopped"

    async def _run(self) -> str:
        try:
            _check(self.argv[0])
            process = self._process = await asyncio.create_subprocess_exec(
                *self.argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=child_environment() | self._environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return f"not run: {self.argv[0]}: {getattr(error, 'strerror', None) or error}"
        try:
            if self._stopped.is_set():
                self.stop()
            async with asyncio.timeout(self.command.timeout_s):
                await self._exchange(process)
        except TimeoutError:
            return f"killed after {self.command.timeout_s} s"
        finally:
            _kill(process)
            await process.wait()
        if self._stopped.is_set():
            return "stopped"
        return result_from_status(process.returncode).reason or GOOD_OUTCOME

    async def _exchange(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError, RuntimeError):  # it may end without reading
            process.stdin.write(self._line)
            await process.stdin.drain()
            process.stdin.close()
        while chunk := await process.stdout.read(READ_CHUNK_BYTES):
            kept = chunk[: MAX_OUTPUT_BYTES - len(self._output)]
            self._output += kept
            self._left_out += len(chunk) - len(kept)
        await process.wait()

    def stop(self) -> None:
        """Kill the program and its children; does nothing once it has ended."""
        if not self.outcome:
            self._stopped.set()
        if self._process is not None:
            _kill(self._process)


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a program and its children, unless it has ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _check(program: str) -> None:
    """Refuse a program that another user can change. Raises OSError."""
    found = shutil.which(program)
    if found is not None:
        try:
            check_program(found)
        except UntrustedFile as error:
            raise OSError(0, error.strerror) from None
