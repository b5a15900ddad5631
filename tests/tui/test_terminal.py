"""A terminal that vanishes takes nothing with it."""

from __future__ import annotations

import errno
import os
import pty
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from grapevine_tui.terminal import LastingTerminal


class Gone(StringIO):
    """A stream whose terminal has hung up."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def flush(self) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_what_is_written_to_a_terminal_reaches_it() -> None:
    stream = StringIO()
    terminal = LastingTerminal(stream)
    terminal.write("hello")
    terminal.flush()
    assert stream.getvalue() == "hello"


def test_what_is_written_to_a_terminal_that_is_gone_is_lost_without_a_word() -> None:
    terminal = LastingTerminal(Gone())
    assert terminal.write("hello") == 5
    terminal.flush()


def test_a_window_that_is_closed_ends_the_app(tmp_path: Path) -> None:
    """Real app, real node: the master end closes and SIGHUP comes, as when a window is closed."""
    master, slave = pty.openpty()
    places = {f"XDG_{name}_HOME": str(tmp_path / name) for name in ("CONFIG", "STATE", "DATA")}
    process = subprocess.Popen(
        [sys.executable, "-m", "grapevine_tui", "--port", "0"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, **places, "HOME": str(tmp_path), "TERM": "xterm-256color"},
        cwd=tmp_path,
        start_new_session=True,
    )
    os.close(slave)
    try:
        shown = b""
        while b"say something" not in shown:
            shown += os.read(master, 65536)
        os.close(master)
        with pytest.raises(subprocess.TimeoutExpired):  # meanwhile the clock is drawn into nothing
            process.wait(timeout=2.5)
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
