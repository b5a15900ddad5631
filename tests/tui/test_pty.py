"""The app on a real terminal: untrusted text controls nothing, and the terminal is always restored."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import random
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from unicodedata import category

import pytest

from tests.tui.hostile import HOSTILE_BYTES

RESIZES = 300
TIMEOUT_S = 60.0  # only reached by a hang
# Every sequence that the app writes: cursor, colors, modes, queries, the pointer's shape, the title.
OURS = re.compile(
    rb"\x1b\]22;[a-z]+\x07|\x1b\]2;[^\x00-\x1f\x7f]*\x07|\x1b\]11;\?\x07|\x1b\[[?<>=]?[0-9;:]*(?:\$p|[A-Za-z])|\x1b[=>78M]"
)

UNFINISHED = re.compile(rb"\x1b[^A-Za-z\x07]*$")


class Terminal:
    """A program on a pseudo terminal, and everything it has written so far."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 36, 120, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.written = bytearray()
        environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        for name in ("NO_COLOR", "TEXTUAL_DRIVER", "TEXTUAL"):
            environment.pop(name, None)
        environment |= variables
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.tui.pty_app", *arguments],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=environment,
            start_new_session=True,
        )

    def resize(self, width: int, height: int) -> None:
        """Resize the terminal, as when its window changes."""
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def read_until(self, text: bytes) -> None:
        """Read on until `words` have been written, or the program has ended."""
        give_up_at = time.monotonic() + TIMEOUT_S
        while text not in self.written:
            assert time.monotonic() < give_up_at, "the words never came"
            if not self.read_some() and self.process.poll() is not None:
                return

    def wait(self) -> int:
        """Read to the end and return the exit code."""
        give_up_at = time.monotonic() + TIMEOUT_S
        while self.process.poll() is None:
            assert time.monotonic() < give_up_at, "it does not end"
            self.read_some()
        while self.read_some():
            pass
        return self.process.returncode

    def read_some(self, patience_s: float = 0.05) -> bool:
        """Whether there was anything to read."""
        if not select.select([self.master], [], [], patience_s)[0]:
            return False
        with contextlib.suppress(OSError):
            some = os.read(self.master, 65536)
            self.written += some
            return bool(some)
        return False

    @property
    def is_as_found(self) -> bool:
        """Whether line settings, cursor and main screen are restored."""
        last = {
            mode: max(self.written.rfind(mode + b"h"), -1) > self.written.rfind(mode + b"l")
            for mode in (b"\x1b[?1049", b"\x1b[?25", b"\x1b[?1000", b"\x1b[?2004")
        }
        return termios.tcgetattr(self.slave) == self.before and last == {
            b"\x1b[?1049": False,
            b"\x1b[?25": True,
            b"\x1b[?1000": False,
            b"\x1b[?2004": False,
        }

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for descriptor in (self.master, self.slave):
            with contextlib.suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


def test_there_are_enough_hostile_texts() -> None:
    assert len(set(HOSTILE_BYTES)) >= 300


def test_no_untrusted_control_character_reaches_the_terminal(terminal: Terminal) -> None:
    terminal.read_until(b"all of it was shown")
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.wait() == 0
    assert terminal.is_as_found
    assert b"]0;x" in terminal.written  # they were shown
    left = OURS.sub(b"", bytes(terminal.written)).decode()
    assert {each for each in left if category(each) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")} <= {
        "\r",
        "\n",
    }
    for begun in (
        b"\x1b]0",
        b"\x1b]52",
        b"\x1b]8",
        b"\x1bP",
        b"\x1b_",
        b"\x1bc",
        b"\x1b(",
        b"\x1b#",
    ):
        assert begun not in terminal.written
    for sequence in (b"\x1b[31;7m", b"\x1b[6n", b"\x1b[21t", b"\x1b[8;1;1t", b"\x1b[200~"):
        assert sequence not in terminal.written


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_shuts_down_gracefully_and_restores_the_terminal(
    terminal: Terminal, number: signal.Signals
) -> None:
    terminal.read_until(b"Messages")
    terminal.process.send_signal(number)
    assert terminal.wait() == 0
    assert terminal.is_as_found


def test_a_closed_terminal_ends_the_app(terminal: Terminal) -> None:
    terminal.read_until(b"Messages")
    os.close(terminal.master)
    os.close(terminal.slave)
    terminal.process.send_signal(signal.SIGHUP)
    terminal.process.wait(timeout=TIMEOUT_S)


def test_a_bug_restores_the_terminal_before_it_is_reported() -> None:
    terminal = Terminal("crash")
    try:
        assert terminal.wait() == 1
        assert terminal.is_as_found
        assert b"a bug" in terminal.written[terminal.written.rfind(b"\x1b[?1049l") :]
    finally:
        terminal.close()


PUSH_TITLE, POP_TITLE = b"\x1b[22;0t", b"\x1b[23;0t"
TITLE = "\x1b]2;␛]0;me␇ · grapevine\x07".encode()  # the node's name is hostile, too


def assert_title_was_ours_and_is_as_found(written: bytes) -> None:
    assert written.count(PUSH_TITLE) == written.count(TITLE) == written.count(POP_TITLE) == 1
    assert written.index(PUSH_TITLE) < written.index(TITLE) < written.index(POP_TITLE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_window_is_named_after_the_node_until_the_app_ends(number: signal.Signals) -> None:
    terminal = Terminal("still")
    try:
        terminal.read_until(TITLE)
        terminal.process.send_signal(number)
        assert terminal.wait() == 0
        assert_title_was_ours_and_is_as_found(bytes(terminal.written))
    finally:
        terminal.close()


def test_a_bug_gives_the_window_its_title_back() -> None:
    terminal = Terminal("crash")
    try:
        assert terminal.wait() == 1
        assert terminal.written.count(PUSH_TITLE) == terminal.written.count(POP_TITLE)
        assert terminal.written.rfind(POP_TITLE) >= terminal.written.rfind(PUSH_TITLE)
    finally:
        terminal.close()


def test_the_linux_console_which_prints_such_commands_gets_no_title() -> None:
    terminal = Terminal("still", TERM="linux")
    try:
        terminal.read_until(b"to everyone")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait() == 0
        assert b"\x1b]2;" not in terminal.written
        assert PUSH_TITLE not in terminal.written
    finally:
        terminal.close()


BACKGROUND_REQUEST = b"\x1b]11;?\x07"
LIGHT, DARK = b"48;2;253;252;255", b"48;2;25;21;34"  # the backgrounds of our two themes


def test_a_terminal_that_reports_a_light_background_gets_the_light_theme() -> None:
    terminal = Terminal("still", COLORFGBG="15;0")  # contradicts the answer: it may be inherited
    try:
        terminal.read_until(BACKGROUND_REQUEST)
        terminal.read_until(DARK)
        assert LIGHT not in terminal.written
        os.write(terminal.master, b"\x1b]11;rgb:fdfd/f6f6/e3e3\x1b\\")
        terminal.read_until(LIGHT)
        os.write(terminal.master, b"istill here\r")
        terminal.read_until(b"you")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait() == 0
        assert b"rgb" not in terminal.written
        assert b"fdfd" not in terminal.written
    finally:
        terminal.close()


def test_a_late_answer_in_pieces_neither_changes_the_theme_nor_reaches_the_compose_box() -> None:
    terminal = Terminal("still")
    try:
        terminal.read_until(b"to everyone")
        os.write(terminal.master, b"i")  # into the compose box
        time.sleep(1.2)  # longer than the answer's timeout
        for piece in (b"\x1b]1", b"1;rgb:ff", b"ff/ffff/ffff", b"\x07"):
            os.write(terminal.master, piece)
            time.sleep(0.2)  # longer than Textual waits for the rest of a sequence
        os.write(terminal.master, b"still here\r")
        terminal.read_until(b"you")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait() == 0
        assert b"rgb" not in terminal.written
        assert b"ffff" not in terminal.written
        assert LIGHT not in terminal.written
    finally:
        terminal.close()


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [(("themed",), {}), ((), {"TERM": "linux"})],
    ids=["chosen", "linux"],
)
def test_a_terminal_is_not_asked_for_its_background_in_vain(
    arguments: tuple[str, ...], variables: dict[str, str]
) -> None:
    terminal = Terminal("still", *arguments, **variables)
    try:
        terminal.read_until(b"to everyone")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait() == 0
        assert BACKGROUND_REQUEST not in terminal.written
    finally:
        terminal.close()


@pytest.mark.parametrize(
    ("alert", "expected"),
    [
        ("off", b""),
        ("bell", b"\x07"),
        ("notify", "\x1b]9;state not saved: disk ␛]9;full\x07".encode()),
        ("notify-777", "\x1b]777;notify;grapevine;state not saved: disk ␛]9;full\x07".encode()),
    ],
)
def test_a_warning_alerts_the_operator_as_is_set(alert: str, expected: bytes) -> None:
    terminal = Terminal("still", "warned", alert)
    try:
        terminal.read_until(b"state not saved")
        if expected:
            terminal.read_until(expected)
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait() == 0
        left = OURS.sub(b"", bytes(terminal.written))
        assert left.count(b"\x07") == (1 if expected else 0)
        assert expected in left
    finally:
        terminal.close()


def test_q_typed_in_the_panels_ends_it() -> None:
    terminal = Terminal("still")
    try:
        terminal.read_until(b"to everyone")
        os.write(terminal.master, b"quiet q\x1b")
        # Textual recognizes a lone escape by the silence after it; wait until the panels have the focus.
        terminal.read_until(b"Filter")
        os.write(terminal.master, b"q")
        assert terminal.wait() == 0
        assert terminal.is_as_found
    finally:
        terminal.close()


def test_bytes_that_are_no_text_may_be_typed_and_pasted() -> None:
    terminal = Terminal("still")
    try:
        terminal.read_until(b"to everyone")
        os.write(terminal.master, b"a\xcd\xff\x80a")  # no key of the messages
        os.write(terminal.master, b"\x1b[200~" + bytes(range(0x80, 0x100)) + b"\xf0\x9f\x1b[201~")
        os.write(terminal.master, b"\x1b[200~\x1bq\x1b\x1bq\x1b[Aq\x1b[201~")  # would quit, as keys
        os.write(terminal.master, b"still here\r")
        terminal.read_until(b"you")
        assert terminal.process.poll() is None
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait() == 0
        assert terminal.is_as_found
        assert b"Traceback" not in terminal.written
    finally:
        terminal.close()


def test_three_hundred_random_sizes_leave_it_as_it_was(terminal: Terminal) -> None:
    terminal.read_until(b"to everyone")
    rng = random.Random(20261121)
    for _ in range(RESIZES):
        terminal.resize(rng.choice((1, 2, 39, 40, 80, rng.randint(1, 250))), rng.randint(1, 70))
        for _ in range(rng.randint(0, 2)):
            terminal.read_some(0.01)
    terminal.resize(120, 36)
    terminal.read_until(b"all of it was shown")
    del terminal.written[:]
    terminal.resize(121, 37)
    terminal.read_until(b"to everyone")
    assert terminal.process.poll() is None
    whole = UNFINISHED.sub(b"", bytes(terminal.written))  # the last read may end inside a sequence
    left = OURS.sub(b"", whole).decode(errors="ignore")
    assert {each for each in left if category(each) == "Cc"} <= {"\r", "\n"}
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.wait() == 0
    assert b"Traceback" not in terminal.written
