"""The app survives a terminal that hangs up, stalls, or sends arbitrary bytes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import sys
import termios
from collections.abc import Iterator
from io import TextIOBase
from itertools import pairwise
from pathlib import Path
from subprocess import Popen

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from textual.binding import Binding

from grapevine_tui.app.app import GrapevineApp
from grapevine_tui.app.terminal import (
    MAX_QUEUED_BYTES,
    PASTE_BEGIN,
    PASTE_END,
    POP_TITLE,
    RESET_SEQUENCES,
    UNUSED_KEY,
    BackgroundQuery,
    HangupSafeStream,
    PasteSafeDecoder,
    WindowTitle,
    _mode_sequences,
    ascii_fallback,
    needs_ascii,
)
from grapevine_tui.app.widgets.charts import BAR_EMPTY, BAR_FULL
from grapevine_tui.app.widgets.status_glyphs import STATUS_ORDER
from grapevine_tui.control.client import send_command
from grapevine_tui.text import cells, printable
from tests.tui.fake_host import FakeHost, FakeSettings


class Pipe(TextIOBase):
    """A stream that writes to a pipe."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def fileno(self) -> int:
        return self.writing

    def read_until(self, end: bytes) -> bytes:
        seen = b""
        while not seen.endswith(end):
            seen += os.read(self.reading, 65536)
        return seen


def test_what_is_written_to_a_terminal_reaches_it() -> None:
    pipe = Pipe()
    terminal = HangupSafeStream(pipe)
    terminal.write("hello")
    terminal.flush()
    assert os.read(pipe.reading, 100) == b"hello"


def test_output_to_a_closed_terminal_is_discarded_silently() -> None:
    pipe = Pipe()
    terminal = HangupSafeStream(pipe)
    os.close(pipe.reading)
    for _ in range(2):
        assert terminal.write("hello") == 5
        terminal.flush()


def test_a_terminal_that_is_not_read_holds_nothing_up_and_keeps_the_latest() -> None:
    pipe = Pipe()
    terminal = HangupSafeStream(pipe)
    terminal.write("\x1b[?1049h")
    frame = "\x1b[?2026h" + "x" * 100_000
    for number in range(100):  # ten times the queue's limit
        terminal.write(f"{frame}{number}.")
        terminal.write("\x1b[?2026l")
        terminal.write("\x1b[?7l")
        terminal.flush()
        assert not terminal.consume_dropped_frames()  # the terminal still does not read
    terminal.write("\x1b[?1049l")
    seen = pipe.read_until(b"\x1b[?1049l")
    assert len(seen) < 2 * MAX_QUEUED_BYTES
    assert seen.startswith(b"\x1b[?1049h")
    assert b"x99." in seen
    assert b"x50." not in seen
    assert seen.count(b"\x1b[?7l") >= 1
    terminal.flush()
    assert terminal.consume_dropped_frames()
    assert not terminal.consume_dropped_frames()


def test_modes_toggled_while_the_terminal_does_not_read_are_queued_once_each() -> None:
    on, off = b"\x1b[?1004h", b"\x1b[?1004l\x1b[?25h"
    assert _mode_sequences([b"frame", on, off, b"\x1b[?2026h", on, b"x" * 99]) == [off, on]


@contextlib.contextmanager
def app_on_terminal(
    directory: Path, *arguments: str, **variables: str
) -> Iterator[tuple[Popen[bytes], int, int]]:
    """The real app with a real node on a pseudo terminal: its process and both ends."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (36, 120))
    places = {f"XDG_{name}_HOME": str(directory / name) for name in ("CONFIG", "STATE", "DATA")}
    process = Popen(
        [sys.executable, "-m", "grapevine_tui", "--port", "0", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, **places, "HOME": str(directory), "TERM": "xterm-256color", **variables},
        cwd=directory,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # its window, so that it hangs up
    )
    try:
        yield process, master, slave
    finally:
        process.kill()
        process.wait()
        for end in (master, slave):
            with contextlib.suppress(OSError):
                os.close(end)


def test_a_window_that_is_closed_ends_the_app(tmp_path: Path) -> None:
    """The master end closes, and the kernel sends SIGHUP."""
    with app_on_terminal(tmp_path) as (process, master, slave):
        os.close(slave)
        shown = b""
        while b"message to everyone" not in shown:
            shown += os.read(master, 65536)
        os.close(master)
        assert process.wait(timeout=30) == 0


def test_a_node_whose_terminal_is_not_read_answers_and_leaves(tmp_path: Path) -> None:
    state_dir = tmp_path / "node"
    with app_on_terminal(tmp_path, "--state-dir", str(state_dir)) as (process, _, slave):
        found = termios.tcgetattr(slave)
        while not (state_dir / "control.sock").exists():
            assert process.poll() is None
        for _ in range(40):  # until long after its frames have filled all queues
            assert send_command(state_dir, {"cmd": "broadcast", "text": "x" * 1000})["ok"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert termios.tcgetattr(slave) == found


def read_in(pieces: list[bytes]) -> str:
    reading = PasteSafeDecoder("utf-8")
    return "".join(reading.decode(piece) for piece in pieces)


def cut_up(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(position, len(data)) for position in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(ends)]


def test_what_is_typed_is_read_as_it_stands_and_what_is_no_text_as_a_sign() -> None:
    assert read_in([b"a\x1b[A\xc3", b"\xa9\x1b"]) == "a\x1b[A\u00e9\x1b"
    assert read_in([b"a\xcd\xffb"]) == "a\ufffd\ufffdb"


def test_an_escape_in_a_paste_is_a_letter_of_it() -> None:
    begin, end = PASTE_BEGIN.encode(), PASTE_END.encode()
    pasted = begin + b"one\x1bq\x1b[Atwo\x1b[200~" + end + b"\x1b[A"
    assert read_in([pasted]) == f"{PASTE_BEGIN}one␛q␛[Atwo␛[200~{PASTE_END}\x1b[A"


@given(
    st.lists(
        st.sampled_from(
            ["a", "\x1b", PASTE_BEGIN, PASTE_END, PASTE_BEGIN[:3], PASTE_END[:4], "é", "[201~"]
        )
    ),
    st.lists(st.integers(0, 60)),
)
def test_it_is_read_the_same_however_it_comes_in_pieces(parts: list[str], at: list[int]) -> None:
    data = "".join(parts).encode()
    whole = PasteSafeDecoder("utf-8").decode(data + PASTE_END.encode())
    assert read_in([*cut_up(data, at), PASTE_END.encode()]) == whole


@given(st.text("ab\x1b[201~", max_size=40))
def test_nothing_in_a_paste_acts_as_a_key(text: str) -> None:
    decoded = read_in([PASTE_BEGIN.encode(), text.encode(), PASTE_END.encode()])
    assert decoded.startswith(PASTE_BEGIN)
    body, mark, after = decoded.removeprefix(PASTE_BEGIN).partition(PASTE_END)
    assert mark
    assert "\x1b" not in body
    if PASTE_END not in text:
        assert after == ""
        assert body == text.replace("\x1b", "␛")


def test_a_terminal_given_back_in_a_hurry_has_its_title_back_and_once_only() -> None:
    pipe = Pipe()
    terminal = HangupSafeStream(pipe)
    title = WindowTitle(terminal.write)
    title.show("db-1")
    terminal.restore()
    terminal.restore()
    title.restore()
    terminal.flush()
    written = os.read(pipe.reading, 65536).decode()
    assert "\x1b]2;db-1 · grapevine\x07" in written
    assert written.endswith(RESET_SEQUENCES + POP_TITLE + RESET_SEQUENCES)
    assert written.count(POP_TITLE) == 1


def test_a_title_that_is_shown_already_is_not_written_again() -> None:
    written: list[str] = []
    title = WindowTitle(written.append)
    for name in ("db-1", "db-1", "db-2"):
        title.show(name)
    assert written == ["\x1b[22;0t", "\x1b]2;db-1 · grapevine\x07", "\x1b]2;db-2 · grapevine\x07"]


def test_alerts_that_fire_stand_before_the_name() -> None:
    written: list[str] = []
    title = WindowTitle(written.append)
    for alert_count in (1, 2, 0):
        title.show("db-1", alert_count)
    assert written[1:] == [
        "\x1b]2;! 1 alert · db-1 · grapevine\x07",
        "\x1b]2;! 2 alerts · db-1 · grapevine\x07",
        "\x1b]2;db-1 · grapevine\x07",
    ]


def test_a_terminal_that_is_not_read_keeps_what_gives_its_title_back() -> None:
    assert _mode_sequences([POP_TITLE.encode(), b"a frame"]) == [POP_TITLE.encode()]


@given(
    st.text("a]1\x1b;/", max_size=6),
    st.sampled_from(["rgb:ffff/ffff/ffff", "rgba:ff/ff/ff/ff", "rgb:0/0/0", "what?"]),
    st.sampled_from(["\x07", "\x1b\\"]),
    st.lists(st.integers(0, 60)),
)
def test_an_answer_is_never_typed_however_it_is_cut(
    before: str, color: str, end: str, places: list[int]
) -> None:
    seen: list[bool] = []
    assume("\x1b]11;" not in before)  # an answer of its own, as far as anyone can tell
    query = BackgroundQuery(lambda _: None, seen.append)
    before = f"{before}a"  # so that no escape precedes it
    try:
        pieces = cut_up(f"{before}\x1b]11;{color}{end}z".encode(), places)
        decoded = read_in(pieces)
    finally:
        query.drop()
    assert decoded.replace("\x1b" + UNUSED_KEY, "") == f"{before}z"
    assert seen == ([] if color == "what?" else [color != "rgb:0/0/0"])


def test_what_is_pasted_is_no_answer() -> None:
    query = BackgroundQuery(lambda _: None, lambda _: None)
    try:
        decoded = read_in([f"{PASTE_BEGIN}\x1b]11;rgb:ff/ff/ff\x07{PASTE_END}".encode()])
        assert decoded == f"{PASTE_BEGIN}␛]11;rgb:ff/ff/ff\x07{PASTE_END}"
        assert BackgroundQuery.pending is query
    finally:
        query.drop()


def test_a_key_does_not_wait_for_an_answer_that_is_not_due() -> None:
    assert read_in([b"\x1b]"]) == "\x1b]"
    assert read_in([b"\x1b", b"]"]) == "\x1b]"
    assert read_in([b"\x1b]11;rgb:ff/ff/ff\x07"]) == ""


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C"}])
def test_a_terminal_without_utf8_gets_ascii_alone(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    if "LC_ALL" in variables and "PYTHONIOENCODING" in os.environ:
        pytest.skip("the encoding is set from outside")
    with app_on_terminal(tmp_path, "--name", "zürich·1", **variables) as (process, master, _):
        shown = b""
        while b"message to everyone" not in shown or b"Peers" not in shown:
            shown += os.read(master, 65536)
        assert shown.isascii()
        assert b"----" in shown  # a border
        assert b"zurich-1" in shown
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


@given(st.characters(codec="utf-8"))
def test_ascii_has_the_same_width_in_cells(character: str) -> None:
    character = printable(character)
    assert sum(len(ascii_fallback(each)) for each in character if not each.isascii()) == sum(
        cells(each) for each in character if not each.isascii()
    )


def test_states_and_outcomes_have_signs_of_their_own_in_ascii() -> None:
    for signs in ({each.glyph for each in STATUS_ORDER}, {BAR_FULL, BAR_EMPTY}):
        assert len({ascii_fallback(each) for each in signs}) == len(signs)


def test_a_locale_is_utf8_unless_it_names_another_encoding() -> None:
    assert not needs_ascii("utf-8", {"LC_ALL": "C.UTF-8"})
    assert not needs_ascii("UTF8", {})
    assert needs_ascii("iso8859-15", {})
    assert needs_ascii("utf-8", {"LC_ALL": "POSIX"})


def test_a_key_is_named_where_its_sign_would_look_like_another_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = GrapevineApp(FakeHost(), FakeSettings())
    keys = {"enter": "⏎", "up": "↑", "question_mark": "?", "x": "x"}
    assert {key: app.get_key_display(Binding(key, "")) for key in keys} == keys
    with open(os.devnull, "w", encoding="utf-8") as stream:
        terminal = HangupSafeStream(stream, in_ascii=True)
        monkeypatch.setattr(sys, "__stderr__", terminal)
        shown = [app.get_key_display(Binding(key, "")) for key in keys]
    assert shown == ["enter", "up", "?", "x"]
