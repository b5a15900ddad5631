"""Isolated hosts on which the tests follow the pages: each has a network, directories, a home and terminals.

A host is a process with its own network and mount namespace, so that the fixed ports and directories of a
page (`/opt`, `/etc/grapevine`, `/var/lib/grapevine`) are free and leave nothing behind. It needs root.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

from tests import namespaces
from tests.namespaces import NamespaceHolder

WAIT_S: Final = 30.0  # an idle machine needs a second
POLL_S: Final = 0.05
IS_UP: Final = re.compile(  # first screen or line of a program that keeps running
    rb"Anti-entropy|Fleet \d|\"event\": ?\"started\"|http://127\.0\.0\.1:\d+/\?token="
)
OVERLAID: Final = ("/opt/grapevine", "/etc/grapevine", "/etc/systemd/system", "/var/lib/grapevine")


def why_not() -> str:
    """Returns why no host can be created here; empty: it can."""
    return namespaces.why_not("a host of the pages", ["unshare", "-nm", "true"])


class Terminal:
    """A command of a page, run in a terminal of 120 by 36."""

    def __init__(self, enter: list[str], command: str, environ: dict[str, str]) -> None:
        self.command = command
        self.output = b""
        pid, self._master = pty.fork()
        if pid == 0:
            os.execvpe(enter[0], [*enter, "bash", "-c", command], environ)
        self._pid = pid
        self._code: int | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while piece := os.read(self._master, 65536):
                self.output += piece

    @property
    def code(self) -> int | None:
        """The exit code; None: it still runs."""
        if self._code is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until_up_or_ended(self) -> int | None:
        """Waits until the program is up or ends. Returns the exit code if it ended."""
        self.until(lambda: IS_UP.search(self.output) is not None or self.code is not None)
        return self.code

    def until_shown(self, pattern: str) -> str:
        """Waits until the output matches `pattern`. Returns the match."""
        self.until(lambda: re.search(pattern.encode(), self.output) is not None)
        match = re.search(pattern.encode(), self.output)
        assert match is not None
        return match[0].decode()

    def until(self, condition: object) -> None:
        assert callable(condition)
        give_up_at = time.monotonic() + WAIT_S
        while not condition():
            if time.monotonic() > give_up_at:
                raise AssertionError(
                    f"{self.command}: still waiting after {WAIT_S:g} s\n{self.text}"
                )
            time.sleep(POLL_S)

    @property
    def text(self) -> str:
        """The output without cursor movements."""
        return re.sub(r"\x1b\[[0-9;?<>=]*[a-zA-Z]", " ", self.output.decode(errors="replace"))[
            -4000:
        ]

    def end(self) -> int:
        """Ends the program as a service manager would. Returns the exit code."""
        if self.code is None:
            for pid in _programs_in(self._pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            self.until(lambda: self.code is not None)
        assert self._code is not None
        return self._code

    def close(self) -> None:
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        with contextlib.suppress(OSError):
            os.close(self._master)


def _programs_in(session: int) -> list[int]:
    """Returns the grapevine-tui processes of a terminal, without the shell and other programs of a pipe."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            arguments = (stat.parent / "cmdline").read_bytes().split(b"\0")
            if int(fields[3]) == session and any(w.endswith(b"/grapevine-tui") for w in arguments):
                found.append(int(stat.parent.name))
    return found


class Machine:
    """A host. `address`: on the network of the test, if connected."""

    def __init__(self, directory: Path, address: str = "") -> None:
        self.address = address
        self.directory = directory
        directory.mkdir(parents=True)
        self._terminals: list[Terminal] = []
        self._holder = NamespaceHolder("-nm", "--propagation", "private")
        self.enter = ["nsenter", "-t", str(self._holder.pid), "-n", "-m", f"--wd={directory}"]
        for where in OVERLAID:
            (directory / "overlaid" / where.strip("/")).mkdir(parents=True)
            self.do(f"mkdir -p {where} && mount --bind {directory}/overlaid{where} {where}")
        self.do("mount -t tmpfs tmpfs /run")
        self.do("ip link set lo up")

    @property
    def environ(self) -> dict[str, str]:
        """The environment of a user of this host, with the program on PATH as the README installs it."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        return kept | {
            "PATH": path,
            "HOME": str(self.directory / "home"),
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "COLUMNS": "120",
            "LINES": "36",
        }

    def do(self, command: str) -> str:
        """Runs a command, which must succeed. Returns what it prints."""
        done = subprocess.run(
            [*self.enter, "bash", "-c", command],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def type(self, command: str) -> Terminal:
        """Runs `command` in a new terminal."""
        (self.directory / "home").mkdir(exist_ok=True)
        terminal = Terminal(self.enter, command, self.environ)
        self._terminals.append(terminal)
        return terminal

    def close(self) -> None:
        for terminal in self._terminals:
            terminal.close()
        self._holder.close()

    @property
    def pid(self) -> int:
        return self._holder.pid
