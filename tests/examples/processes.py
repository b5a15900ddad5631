"""Examples as processes: what is typed into them, and the lines they print."""

from __future__ import annotations

import contextlib
import queue
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.sources import ROOT

EXAMPLES = ROOT / "examples"
ANY = "127.0.0.1:0"
WAIT_S = 20.0  # an idle machine needs milliseconds
PORTS_IN_RANGE = 8  # more than any test has processes


class Example:
    """One process, its input and the lines it prints."""

    def __init__(self, name: str, *arguments: str, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", str(EXAMPLES / name), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=directory,
        )
        self.seen: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))

    def expect(self, expected: str) -> str:
        """Returns the next line that contains `expected`."""
        while True:
            try:
                line = self._lines.get(timeout=WAIT_S)
            except queue.Empty:
                raise AssertionError(f"no {expected!r} in {self.seen}") from None
            self.seen.append(line)
            if expected in line:
                return line

    def expect_each(self, *lines: str) -> None:
        """Waits for these lines, in any order."""
        missing = set(lines)
        while missing:
            missing.discard(self.expect(""))

    def address(self) -> str:
        return self.expect("127.0.0.1:").rpartition(" ")[2]

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def ask(self, line: str, expected: str = "") -> str:
        """Types a line. Returns the next line printed that contains `expected`."""
        self.type(line)
        return self.expect(expected)

    def ask_until(self, line: str, expected: str) -> str:
        """Types a line again and again, until the line printed in answer contains `expected`."""
        give_up_at = time.monotonic() + WAIT_S
        while expected not in (found := self.ask(line)):
            assert time.monotonic() < give_up_at, f"no {expected!r} after {line!r} in {self.seen}"
        return found

    def read(self) -> list[str]:
        """Returns the lines printed meanwhile; waits up to a tenth of a second for one."""
        with contextlib.suppress(queue.Empty):
            self.seen.append(self._lines.get(timeout=0.1))
            return self.seen[-1:]
        return []

    def kill(self) -> None:
        """Ends the process without a chance to say goodbye."""
        self.process.kill()
        self.process.wait()

    def leave(self) -> int:
        """Closes the input. Returns the exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        while not self._lines.empty():
            self.seen.append(self._lines.get())
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


Start = Callable[..., Example]


def free_ports() -> str:
    """Returns a range of ports as an address; all were free a moment ago."""
    while True:
        first = random.randrange(20_000, 30_000)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + PORTS_IN_RANGE):
                probe = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                probe.bind(("127.0.0.1", port))
            return f"127.0.0.1:{first}-{first + PORTS_IN_RANGE - 1}"
