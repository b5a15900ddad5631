"""The terminal as something that may vanish, and that may send anything.

What must stay true:

- Writing to a terminal raises nothing and waits for nothing, be it hung up or not read: a lid that is
  closed, ssh that stalls, a multiplexer that is paused. Textual writes from a thread of its own behind a
  short queue: an error there ends the thread, and a write that waits stops the loop, and the node with it.
- Of a terminal that is not read, what waits is bounded: old frames go, and when it reads again, everything
  is painted from scratch. What switches the terminal's modes is kept.
- Whatever bytes are typed or pasted, the app goes on: what is not UTF-8 is read as signs that stand for it.
  Textual's own reading ends the app there.
- What a terminal answers about its background (OSC 11) is never read as keys, however late it comes and
  however it is cut.
- A terminal whose locale is not UTF-8 gets ASCII alone, and each sign in as many cells as before.
- The window's title is ours while the app runs; however it ends, the title from before comes back.
- What is pasted is text to the last letter: an escape in it never leaves the box to act as a key. Many
  terminals see to that themselves, tmux and screen do not.
"""

from __future__ import annotations

import importlib
import re
import sys
import time
from codecs import getincrementaldecoder
from codecs import lookup as codecs_lookup
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from io import TextIOBase
from typing import Any, ClassVar, Final, TextIO
from unicodedata import normalize

from grapevine_tui.background_writer import BackgroundWriter, write_all
from grapevine_tui.text import cells, printable, truncate

# The one for a terminal. A browser sends what is text, and its driver takes an empty piece for the end.
DRIVER: Final = "textual.drivers.linux_driver"
PASTE_BEGIN: Final = "\x1b[200~"  # bracketed paste
PASTE_END: Final = "\x1b[201~"
ESCAPE_SYMBOL: Final = "␛"
MAX_QUEUED_BYTES: Final = 2**20  # a dozen frames of a large screen
FLUSH_TIMEOUT_S: Final = 0.25  # a terminal that takes nothing for so long is waited for no more
MODE_SEQUENCE: Final = re.compile(
    rb"(?:\x1b\[[?<>=]?(?!2026)[0-9;]*[hlut])+"
)  # 2026: begin and end of a frame
MAX_MODE_SEQUENCE_BYTES: Final = 64
# Keys, the other screen, the cursor, focus, paste, wrapping and mouse as a shell expects them.
RESET_SEQUENCES: Final = "\x1b[<u\x1b[?1049l\x1b[?25h\x1b[?1004l\x1b[?2004l\x1b[?7h" + "".join(
    f"\x1b[?{mode}l" for mode in (1000, 1003, 1006, 1015, 1016, 2048)
)
ASK_BACKGROUND: Final = "\x1b]11;?\x07"
ANSWER_S: Final = 1.0  # an answer after that changes nothing: nobody wants the screen to flip
ANSWER: Final = re.compile(r"\x1b\]11;([ -~]{0,64})(?:\x07|\x1b\\)")
ANSWER_BEGUN: Final = re.compile(r"\x1b\](?:1(?:1(?:;[ -~]{0,64}\x1b?)?)?)?\Z")
PART: Final = "([0-9a-fA-F]{1,4})"
COLOR: Final = re.compile(rf"rgba?:{PART}/{PART}/{PART}(?:/{PART})?")
NO_KEY: Final = "[E"  # behind an escape: a key that means nothing here
# The terminal's stack of titles (xterm's CSI 22 and 23); a terminal without one ignores both.
PUSH_TITLE: Final = "\x1b[22;0t"
POP_TITLE: Final = "\x1b[23;0t"
MAX_TITLE_NAME_CELLS: Final = 60  # of the node's name


def understands_osc(environment: Mapping[str, str]) -> bool:
    """Whether the terminal ignores operating system commands that it does not know. The Linux console
    prints them."""
    return environment.get("TERM", "") not in ("", "dumb", "linux")


# Signs, borders, bars and curves in ASCII. What means different things there stays different.
ASCII_SIGNS: Final = {
    **dict(zip("●◐◌▲▼◦✕○⊘", "*%.^v:xo#", strict=True)),
    **dict(zip("…·→≤❯↵", "~-><>/", strict=True)),
    **dict(zip("─│━╸╺┃", "-|=--|", strict=True)),
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼", "+"),
    **dict.fromkeys("█▉▊▋▌▇▆▅▐", "#"),
    **dict.fromkeys("▍▎▏", "|"),
    **dict.fromkeys("▁▂▃▄▔▀", "_"),
}
BRAILLE: Final = range(0x2800, 0x2900)
DOTS: Final = " ..:::###"  # by how many of the eight dots there are


def ascii_sign(character: str) -> str:
    """ASCII for `character`, in exactly as many cells."""
    if character in ASCII_SIGNS:
        return ASCII_SIGNS[character]
    if ord(character) in BRAILLE:
        return DOTS[(ord(character) - BRAILLE.start).bit_count()]
    base = normalize("NFKD", character)[:1]
    size = cells(character)
    return base if size == 1 and base.isascii() and base.isprintable() else "?" * size


class _Ascii(dict[int, str]):
    """For `str.translate`; looks each character up once."""

    def __missing__(self, code: int) -> str:
        sign = self[code] = chr(code) if code < 0x80 else ascii_sign(chr(code))
        return sign


def needs_ascii(encoding: str, environment: Mapping[str, str]) -> bool:
    """Whether the locale of a terminal is not UTF-8. Python takes the C locale for UTF-8, whether or not
    somebody has asked for it."""
    is_c = environment.get("LC_ALL") in ("C", "POSIX") and "PYTHONIOENCODING" not in environment
    return is_c or codecs_lookup(encoding).name != "utf-8"


class WindowTitle:
    """Names the window after the node, by `write`."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._shown_title = ""

    def show(self, name: str) -> None:
        """Show the node's `name`, which may be any text, in the title; writes only what is new."""
        title = (
            f"{truncate(printable(name), MAX_TITLE_NAME_CELLS)} · grapevine"
            if name
            else "grapevine"
        )
        if title == self._shown_title:
            return
        if not self._shown_title:
            self._write(PUSH_TITLE)
        self._shown_title = title
        self._write(f"\x1b]2;{title}\x07")

    def restore(self) -> None:
        """Bring back the title that the window had before; harmless where none was shown."""
        if self._shown_title:
            self._shown_title = ""
            self._write(POP_TITLE)


def is_light_color(red: float, green: float, blue: float) -> bool:
    """Whether black is easier to read on that color than white is; each part from 0 to 1."""

    def linear(part: float) -> float:
        return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4

    luminance = 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)
    return luminance > 0.179  # where the contrast with black and with white is the same (WCAG)


class BackgroundQuery:
    """Asks the terminal for the color of its background by `write`; waits for nothing. `on_answer` gets
    whether it is light, if the answer comes within `ANSWER_S`."""

    pending: ClassVar[BackgroundQuery | None] = None
    """The one whose answer is due, however late it is: a process has one terminal."""

    def __init__(self, write: Callable[[str], object], on_answer: Callable[[bool], object]) -> None:
        self._on_answer = on_answer
        self._until = time.monotonic() + ANSWER_S
        BackgroundQuery.pending = self
        write(ASK_BACKGROUND)

    def answer(self, color: str) -> None:
        """The terminal says `color`, which may be anything. Called by the thread that reads from it."""
        BackgroundQuery.pending = None
        parts = COLOR.fullmatch(color)
        if parts is not None and time.monotonic() < self._until:
            red, green, blue = (
                int(part, 16) / (16 ** len(part) - 1) for part in parts.groups()[:3]
            )
            self._on_answer(is_light_color(red, green, blue))

    def drop(self) -> None:
        """Expect no answer any more."""
        if BackgroundQuery.pending is self:
            BackgroundQuery.pending = None


class PasteSafeDecoder:
    """Makes letters of what comes from a terminal, a piece at a time."""

    def __init__(self, encoding: str) -> None:
        self._decode = getincrementaldecoder(encoding)("replace").decode
        self._is_in_paste = False
        self._typed_tail = ""  # the last letters outside a paste: its mark may come in pieces
        self._pending = ""  # of a paste, what may be the beginning of its end; else of an answer
        self._ends_in_escape = False  # of what was given on

    def decode(self, data: bytes, final: bool = False) -> str:
        """The next letters; within a paste without a single escape."""
        text = self._pending + self._decode(data, final)
        self._pending = ""
        pieces = []
        while text:
            piece, text = (
                self._decode_pasted(text) if self._is_in_paste else self._decode_typed(text)
            )
            pieces.append(piece)
        return "".join(pieces)

    def _decode_typed(self, text: str) -> tuple[str, str]:
        recent = self._typed_tail + text
        start = recent.find(PASTE_BEGIN)
        if start < 0:
            typed = self._without_answers(text)
            self._typed_tail = (self._typed_tail + typed)[1 - len(PASTE_BEGIN) :]
            return typed, ""
        self._is_in_paste = True
        split_at = start + len(PASTE_BEGIN) - len(self._typed_tail)
        self._typed_tail = ""
        return self._without_answers(text[:split_at]), text[split_at:]

    def _without_answers(self, typed: str) -> str:
        """`typed` without what the terminal answers. While an answer is due, what may be the beginning
        of one is held back."""
        query = BackgroundQuery.pending
        if self._ends_in_escape and typed.startswith("]") and query is not None:
            # The escape was passed on, for it may have been the key. It must not turn into one now.
            if found := ANSWER.match("\x1b" + typed):
                query.answer(found[1])
                typed = NO_KEY + typed[found.end() - 1 :]
            elif ANSWER_BEGUN.match("\x1b" + typed):
                self._pending = typed
                return ""
        for found in ANSWER.finditer(typed):
            if query is not None:
                query.answer(found[1])
        typed = ANSWER.sub("", typed)
        if query is not None and (begun := ANSWER_BEGUN.search(typed)):
            typed, self._pending = typed[: begun.start()], begun[0]
        if typed:
            self._ends_in_escape = typed.endswith("\x1b")
        return typed

    def _decode_pasted(self, text: str) -> tuple[str, str]:
        body, end_marker, rest = text.partition(PASTE_END)
        if end_marker:
            self._is_in_paste = False
            self._typed_tail = ""
        else:
            sizes = range(len(PASTE_END) - 1, 0, -1)
            pending_size = next((size for size in sizes if body.endswith(PASTE_END[:size])), 0)
            body, self._pending = body[: len(body) - pending_size], body[len(body) - pending_size :]
        return body.replace("\x1b", ESCAPE_SYMBOL) + end_marker, rest


def _decoder_factory(encoding: str) -> Callable[[], PasteSafeDecoder]:
    """In place of `codecs.getincrementaldecoder`."""
    terminal = _wrapped_stderr()
    return partial(PasteSafeDecoder, terminal.encoding if terminal is not None else encoding)


def install_paste_safe_decoder() -> None:
    """Have Textual read whatever comes from the terminal, by `PasteSafeDecoder`."""
    with suppress(ImportError):  # Windows has a driver of its own, which is given letters
        vars(importlib.import_module(DRIVER))["getincrementaldecoder"] = _decoder_factory


class HangupSafeStream(TextIOBase):
    """`stream` for as long as it is there, and nothing after that. Only its file is used: a thread
    that waits for a terminal must not hold the lock of a stream."""

    def __init__(self, stream: TextIO | TextIOBase, *, in_ascii: bool = False) -> None:
        self._signs = _Ascii() if in_ascii else None
        self._stream = stream  # which may close its file when it goes
        self._encoding = stream.encoding or "utf-8"
        self._fd = stream.fileno()
        self._is_tty = stream.isatty()
        self._original_attributes = _terminal_attributes(self._fd)
        self._is_stalled = False
        self._has_dropped_frames = False
        self._is_title_pushed = False
        self._writer = BackgroundWriter(
            partial(write_all, self._fd), name="terminal", on_broken=lambda _: None
        )

    @property
    def encoding(self) -> str:  # type: ignore[override]  # it is read-only at run time
        return self._encoding

    def write(self, text: str) -> int:
        if text == POP_TITLE and not self._is_title_pushed:
            return len(text)  # given back already: a second time would take another program's
        if self._signs is None:
            data = text.encode(self._encoding, "backslashreplace")
        else:
            data = text.translate(self._signs).encode("ascii")
        if self._writer.queued_bytes + len(data) > MAX_QUEUED_BYTES:
            self._writer.retain(_mode_sequences)
            self._has_dropped_frames = True
        self._writer.put(data)
        if PUSH_TITLE in text or POP_TITLE in text:
            self._is_title_pushed = text.rfind(PUSH_TITLE) > text.rfind(POP_TITLE)
        return len(text)

    def flush(self) -> None:
        """Wait until all is written; for a terminal that does not read, only once and briefly."""
        is_written = self._writer.flush(0.0 if self._is_stalled else FLUSH_TIMEOUT_S)
        self._is_stalled = not is_written

    def consume_dropped_frames(self) -> bool:
        """Whether frames were let go, and the terminal reads again: once each time. Then what stands
        on it is to be painted from scratch."""
        if not self._has_dropped_frames or not self._writer.is_idle:
            return False
        self._has_dropped_frames = False
        return True

    def restore(self) -> None:
        """Let it behave as it was found; what it still shows can wait."""
        if self._original_attributes is not None:
            import termios

            with suppress(OSError, termios.error):
                termios.tcsetattr(self._fd, termios.TCSANOW, self._original_attributes)
        self.write(RESET_SEQUENCES + (POP_TITLE if self._is_title_pushed else ""))
        self.flush()

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return self._is_tty


def _mode_sequences(pieces: Iterable[bytes]) -> list[bytes]:
    """Those that switch something on or off, which no later frame makes up for; each once."""
    latest: dict[bytes, None] = {}
    for piece in pieces:
        if len(piece) <= MAX_MODE_SEQUENCE_BYTES and MODE_SEQUENCE.fullmatch(piece):
            latest.pop(piece, None)
            latest[piece] = None
    return list(latest)


def _terminal_attributes(fd: int) -> list[Any] | None:
    try:
        import termios
    except ImportError:  # Windows
        return None
    try:
        return termios.tcgetattr(fd)
    except (OSError, termios.error):
        return None


def _wrapped_stderr() -> HangupSafeStream | None:
    terminal: object = sys.__stderr__
    return terminal if isinstance(terminal, HangupSafeStream) else None


def restore_terminal() -> None:
    """Leave this process's terminal as it was found."""
    if (terminal := _wrapped_stderr()) is not None:
        terminal.restore()


def consume_repaint_request() -> bool:
    """Whether what stands on this process's terminal is to be painted from scratch."""
    terminal = _wrapped_stderr()
    return terminal is not None and terminal.consume_dropped_frames()
