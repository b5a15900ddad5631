"""A terminal that vanishes takes nothing with it."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import subprocess
import sys
import termios
from io import StringIO
from pathlib import Path

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
    """Real app, real node: the master end closes, and the kernel sends SIGHUP."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (36, 120))
    places = {f"XDG_{name}_HOME": str(tmp_path / name) for name in ("CONFIG", "STATE", "DATA")}
    process = subprocess.Popen(
        [sys.executable, "-m", "grapevine_tui", "--port", "0"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, **places, "HOME": str(tmp_path), "TERM": "xterm-256color"},
        cwd=tmp_path,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # its window, so that it hangs up
    )
    os.close(slave)
    try:
        shown = b""
        while b"say something" not in shown:
            shown += os.read(master, 65536)
        os.close(master)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
