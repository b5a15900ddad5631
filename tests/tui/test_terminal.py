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
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from grapevine_tui.terminal import BEGIN, END, LastingTerminal, Reading


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


def read_in(pieces: list[bytes]) -> str:
    reading = Reading("utf-8")
    return "".join(reading.decode(piece) for piece in pieces)


def cut_up(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(ends)]


def test_what_is_typed_is_read_as_it_stands_and_what_is_no_text_as_a_sign() -> None:
    assert read_in([b"a\x1b[A\xc3", b"\xa9\x1b"]) == "a\x1b[A\u00e9\x1b"
    assert read_in([b"a\xcd\xffb"]) == "a\ufffd\ufffdb"


def test_an_escape_in_a_paste_is_a_letter_of_it() -> None:
    begin, end = BEGIN.encode(), END.encode()
    pasted = begin + b"one\x1bq\x1b[Atwo\x1b[200~" + end + b"\x1b[A"
    assert read_in([pasted]) == f"{BEGIN}one␛q␛[Atwo␛[200~{END}\x1b[A"


@given(
    st.lists(st.sampled_from(["a", "\x1b", BEGIN, END, BEGIN[:3], END[:4], "é", "[201~"])),
    st.lists(st.integers(0, 60)),
)
def test_it_is_read_the_same_however_it_comes_in_pieces(parts: list[str], at: list[int]) -> None:
    data = "".join(parts).encode()
    whole = Reading("utf-8").decode(data + END.encode())
    assert read_in([*cut_up(data, at), END.encode()]) == whole


@given(st.text("ab\x1b[201~", max_size=40))
def test_nothing_in_a_paste_acts_as_a_key(text: str) -> None:
    told = read_in([BEGIN.encode(), text.encode(), END.encode()])
    assert told.startswith(BEGIN)
    body, mark, after = told.removeprefix(BEGIN).partition(END)
    assert mark
    assert "\x1b" not in body
    if END not in text:
        assert after == ""
        assert body == text.replace("\x1b", "␛")
