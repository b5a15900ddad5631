"""Headless nodes as whole processes, each with a home of the test's own."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

Object = dict[str, Any]
WAIT_S = 20.0  # for what takes milliseconds on an idle machine


def environ_of(folder: Path) -> dict[str, str]:
    """The variables of a user who lives in `folder`."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_STATE_HOME": str(folder / "state"),
    } | {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}


class Run:
    """One headless process; `seen` is every object it has printed, as far as it was read."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        stdin: Any = subprocess.PIPE,
        environ: dict[str, str] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "grapevine_tui", "--headless", "-l", "warn", *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environ_of(folder) | (environ or {}),
            cwd=folder,
        )
        self.seen: list[Object] = []
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):  # closed under us, by a test that means it
            for line in self.process.stdout:
                self._lines.put(line)

    def next(self) -> Object:
        line = self._lines.get(timeout=WAIT_S)
        assert line.endswith(b"\n")
        told: Object = json.loads(line.decode("ascii"))
        assert isinstance(told["event"], str)
        assert told["time"].endswith("Z")
        self.seen.append(told)
        return told

    def expect(self, event: str, **fields: Any) -> Object:
        """The next object of that kind with these fields."""
        while True:
            told = self.next()
            if told["event"] == event and fields.items() <= told.items():
                return told

    def stop_reading(self) -> None:
        """Close our end of its stdout."""
        assert self.process.stdout is not None
        with open(os.devnull, "rb") as nothing:  # what the reading thread finds after this line
            os.dup2(nothing.fileno(), self.process.stdout.fileno())
        self.write("/status\n")
        self._reader.join(timeout=WAIT_S)

    def write(self, text: str | bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text if isinstance(text, bytes) else text.encode())
        self.process.stdin.flush()

    def ask(self, **command: Any) -> Object:
        """The reply to a command."""
        command["request"] = f"{len(self.seen)}"
        self.write(json.dumps(command) + "\n")
        return self.expect("reply", request=command["request"])

    def end(self, how: signal.Signals | None = signal.SIGTERM) -> int:
        """End it, read all that is left; the exit code."""
        if how is not None:
            self.process.send_signal(how)
        elif self.process.stdin is not None:
            self.process.stdin.close()
        code = self.process.wait(timeout=WAIT_S)
        self._reader.join(timeout=WAIT_S)
        while not self._lines.empty():
            self.next()
        return code

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


class Bench:
    """Starts processes for one user, and ends what a test leaves running."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs: list[Run] = []

    def run(
        self,
        *arguments: str,
        port: str = "0",
        stdin: Any = subprocess.PIPE,
        environ: dict[str, str] | None = None,
    ) -> Run:
        run = Run(self.folder, "-p", port, *arguments, stdin=stdin, environ=environ)
        self._runs.append(run)
        return run

    def started(self, *arguments: str, environ: dict[str, str] | None = None) -> tuple[Run, str]:
        run = self.run(*arguments, environ=environ)
        return run, run.expect("started")["address"]

    def command(
        self,
        *arguments: str,
        stdin: str | bytes = "",
        environ: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """An errand of the same user, done to its end."""
        return subprocess.run(
            [sys.executable, "-m", "grapevine_tui", *arguments],
            input=stdin if isinstance(stdin, str) else os.fsdecode(stdin),
            capture_output=True,
            text=True,
            errors="surrogateescape",
            env=environ_of(self.folder) | (environ or {}),
            cwd=self.folder,
            timeout=WAIT_S,
            check=False,
        )

    def close(self) -> None:
        for run in self._runs:
            run.close()
