"""Headless nodes as processes, each with its own home directory."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

Object = dict[str, Any]
WAIT_S = 20.0  # for operations that take milliseconds on an idle machine


def environ_of(directory: Path) -> dict[str, str]:
    """Return the environment of a user with the home `directory`."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "XDG_CONFIG_HOME": str(directory / "config"),
        "XDG_STATE_HOME": str(directory / "state"),
    } | {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}


class Run:
    """One headless process; `seen` holds every object read from its stdout."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        stdin: Any = subprocess.PIPE,
        environ: dict[str, str] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "grapevine_tui", "--headless", "-l", "warn", *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environ_of(directory) | (environ or {}),
            cwd=directory,
        )
        self.seen: list[Object] = []
        self._errors = b""
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):  # a test may close the stream
            for line in self.process.stdout:
                self._lines.put(line)

    def next(self) -> Object:
        line = self._lines.get(timeout=WAIT_S)
        assert line.endswith(b"\n")
        event: Object = json.loads(line.decode("ascii"))
        assert isinstance(event["event"], str)
        assert event["time"].endswith("Z")
        self.seen.append(event)
        return event

    def expect(self, event: str, **fields: Any) -> Object:
        """Return the next object of that event with these fields."""
        give_up_at = time.monotonic() + WAIT_S
        while True:
            assert time.monotonic() < give_up_at, f"no {event} with {fields} in {self.seen}"
            found = self.next()
            if found["event"] == event and fields.items() <= found.items():
                return found

    def stop_reading(self) -> None:
        """Close our end of its stdout."""
        assert self.process.stdout is not None
        with open(os.devnull, "rb") as nothing:  # the reading thread gets EOF after its next line
            os.dup2(nothing.fileno(), self.process.stdout.fileno())
        self.write("/status\n")
        self._reader.join(timeout=WAIT_S)

    def write(self, text: str | bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text if isinstance(text, bytes) else text.encode())
        self.process.stdin.flush()

    def ask(self, **command: Any) -> Object:
        """Send a command and return its reply."""
        command["request"] = f"{len(self.seen)}"
        self.write(json.dumps(command) + "\n")
        return self.expect("reply", request=command["request"])

    def end(self, how: signal.Signals | None = signal.SIGTERM) -> int:
        """Stop the process by a signal, or by EOF on stdin if None; return its exit code."""
        if how is not None:
            self.process.send_signal(how)
        elif self.process.stdin is not None:
            self.process.stdin.close()
        code = self.process.wait(timeout=WAIT_S)
        self._reader.join(timeout=WAIT_S)
        while not self._lines.empty():
            self.next()
        return code

    def expect_error(self, expected: str) -> None:
        """Wait until its stderr has `expected`."""
        assert self.process.stderr is not None
        give_up_at = time.monotonic() + WAIT_S
        while expected.encode() not in self._errors:
            left_s = max(0.0, give_up_at - time.monotonic())
            readable, _, _ = select.select([self.process.stderr], [], [], left_s)
            assert readable, f"no {expected!r} in {self._errors!r}"
            self._errors += os.read(self.process.stderr.fileno(), 65536)

    def errors(self) -> str:
        """Its whole stderr, once it has ended."""
        assert self.process.stderr is not None
        return (self._errors + self.process.stderr.read()).decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


class Bench:
    """Starts processes for one user and kills those that a test leaves running."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._runs: list[Run] = []
        self._background: list[subprocess.Popen[str]] = []

    def run(
        self,
        *arguments: str,
        port: str = "0",
        stdin: Any = subprocess.PIPE,
        environ: dict[str, str] | None = None,
    ) -> Run:
        run = Run(self.directory, "-p", port, *arguments, stdin=stdin, environ=environ)
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
        """Run a command of the same user to its end."""
        return subprocess.run(
            [sys.executable, "-m", "grapevine_tui", *arguments],
            input=stdin if isinstance(stdin, str) else os.fsdecode(stdin),
            capture_output=True,
            text=True,
            errors="surrogateescape",
            env=environ_of(self.directory) | (environ or {}),
            cwd=self.directory,
            timeout=WAIT_S,
            check=False,
        )

    def background(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command of the same user that runs beside the test; its lines are read from stdout."""
        process = subprocess.Popen(
            [sys.executable, "-m", "grapevine_tui", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env=environ_of(self.directory),
            cwd=self.directory,
        )
        self._background.append(process)
        return process

    def close(self) -> None:
        for run in self._runs:
            run.close()
        for process in self._background:
            process.kill()
            process.communicate()
