"""Terminal input and output that survive hangups, stalls, arbitrary bytes and missing features.

Invariants:

- Writing to the terminal neither raises nor blocks when the terminal hung up or is not read: a closed
  laptop, a stalled SSH session, a paused multiplexer. Textual writes from a thread behind a short queue:
  an error would end that thread, and a blocked write would stop the event loop and the node with it.
- Output for a terminal that is not read is bounded: old frames are dropped, mode changes are kept, and
  the screen is repainted once the terminal reads again.
- Any bytes may be typed or pasted. Invalid UTF-8 becomes replacement characters; Textual's own decoder
  would end the app.
- The answer to a background query (OSC 11) is never read as keys, however late or fragmented it is.
- A terminal without a UTF-8 locale gets only ASCII, with the same number of cells per character.
- The window title is ours while the app runs; the previous title is restored however the app ends.
- Pasted text never acts as keys: an escape in it is replaced. Many terminals do that themselves; tmux
  and screen do not.
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

from grapevine_tui.app.luminance import relative_luminance
from grapevine_tui.background_writer import BackgroundWriter, write_all
from grapevine_tui.text import cells, printable, truncate

# The driver for terminals only: a browser sends text, and its driver reads "" as the end of input.
DRIVER: Final = "textual.drivers.linux_driver"
PASTE_BEGIN: Final = "\x1b[200~"  # bracketed paste
PASTE_END: Final = "\x1b[201~"
ESCAPE_SYMBOL: Final = "␛"
MAX_QUEUED_BYTES: Final = 2**20  # a dozen frames of a large screen
FLUSH_TIMEOUT_S: Final = 0.25  # after this the terminal counts as stalled
MODE_SEQUENCE: Final = re.compile(
    rb"(?:\x1b\[[?<>=]?(?!2026)[0-9;]*[hlut])+"
)  # without 2026, which begins and ends a frame
MAX_MODE_SEQUENCE_BYTES: Final = 64
# Restores keys, main screen, cursor, focus events, paste, wrapping and mouse for the shell.
RESET_SEQUENCES: Final = "\x1b[<u\x1b[?1049l\x1b[?25h\x1b[?1004l\x1b[?2004l\x1b[?7h" + "".join(
    f"\x1b[?{mode}l" for mode in (1000, 1003, 1006, 1015, 1016, 2048)
)
BACKGROUND_REQUEST: Final = "\x1b]11;?\x07"
ANSWER_TIMEOUT_S: Final = (
    1.0  # later answers are ignored: the screen must not change under the user
)
ANSWER: Final = re.compile(r"\x1b\]11;([ -~]{0,64})(?:\x07|\x1b\\)")
PARTIAL_ANSWER: Final = re.compile(r"\x1b\](?:1(?:1(?:;[ -~]{0,64}\x1b?)?)?)?\Z")
COMPONENT: Final = "([0-9a-fA-F]{1,4})"
COLOR: Final = re.compile(rf"rgba?:{COMPONENT}/{COMPONENT}/{COMPONENT}(?:/{COMPONENT})?")
UNUSED_KEY: Final = "[E"  # after an escape: a key without a binding
# The terminal's title stack (xterm's CSI 22 and 23); terminals without one ignore both.
PUSH_TITLE: Final = "\x1b[22;0t"
POP_TITLE: Final = "\x1b[23;0t"
MAX_TITLE_NAME_CELLS: Final = 60  # of the node's name


def understands_osc(environment: Mapping[str, str]) -> bool:
    """Return whether the terminal ignores OSC sequences it does not know. The Linux console prints them."""
    return environment.get("TERM", "") not in ("", "dumb", "linux")


# ASCII for our glyphs, borders, bars and graphs. Glyphs of different meaning stay different.
ASCII_FALLBACKS: Final = {
    **dict(zip("●◐◌▲▼◦✕○⊘", "*%.^v:xo#", strict=True)),
    **dict(zip("…·→≤❯↵", "~-><>/", strict=True)),
    **dict(zip("─│━╸╺┃", "-|=--|", strict=True)),
    **dict(zip("░▒▓", ",;&", strict=True)),
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼", "+"),
    **dict.fromkeys("█▉▊▋▌▇▆▅▐", "#"),
    **dict.fromkeys("▍▎▏", "|"),
    **dict.fromkeys("▁▂▃▄▔▀", "_"),
}
BRAILLE: Final = range(0x2800, 0x2900)
BRAILLE_ASCII: Final = " ..:::###"  # by the number of dots


def ascii_fallback(character: str) -> str:
    """Return ASCII for `character`, in the same number of cells."""
    if character in ASCII_FALLBACKS:
        return ASCII_FALLBACKS[character]
    if ord(character) in BRAILLE:
        return BRAILLE_ASCII[(ord(character) - BRAILLE.start).bit_count()]
    base = normalize("NFKD", character)[:1]
    size = cells(character)
    return base if size == 1 and base.isascii() and base.isprintable() else "?" * size


class _AsciiTable(dict[int, str]):
    """A table for `str.translate` that computes each replacement once."""

    def __missing__(self, code: int) -> str:
        character = self[code] = chr(code) if code < 0x80 else ascii_fallback(chr(code))
        return character


def needs_ascii(encoding: str, environment: Mapping[str, str]) -> bool:
    """Return whether the terminal's locale is not UTF-8. Python reads the C locale as UTF-8 (PEP 538, 540),
    so an explicit LC_ALL=C is checked separately."""
    is_c = environment.get("LC_ALL") in ("C", "POSIX") and "PYTHONIOENCODING" not in environment
    return is_c or codecs_lookup(encoding).name != "utf-8"


def draws_in_ascii() -> bool:
    """Whether the stream on which Textual draws replaces all but ASCII."""
    stream: object = sys.__stderr__
    return isinstance(stream, HangupSafeStream) and stream.is_ascii


class WindowTitle:
    """The terminal's window title. `write` sends a control sequence to the terminal."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._shown_title = ""

    def show(self, name: str, alert_count: int = 0, alerts: str = "") -> None:
        """Show the node's `name`, which may be untrusted, in the title, after the alerts that fire: which, or
        how many. Writes only if it changed."""
        title = (
            f"{truncate(printable(name), MAX_TITLE_NAME_CELLS)} · grapevine"
            if name
            else "grapevine"
        )
        if alerts:
            title = f"! {truncate(printable(alerts), MAX_TITLE_NAME_CELLS)} · {title}"
        elif alert_count:
            title = f"! {alert_count} alert{'s' * (alert_count != 1)} · {title}"
        if title == self._shown_title:
            return
        if not self._shown_title:
            self._write(PUSH_TITLE)
        self._shown_title = title
        self._write(f"\x1b]2;{title}\x07")

    def restore(self) -> None:
        """Restore the previous title; does nothing if none was shown."""
        if self._shown_title:
            self._shown_title = ""
            self._write(POP_TITLE)


def is_light_color(red: float, green: float, blue: float) -> bool:
    """Return whether black text is easier to read on this color than white. Components are 0 to 1."""
    # at this luminance black and white have the same contrast (WCAG)
    return relative_luminance(red, green, blue) > 0.179


class BackgroundQuery:
    """Asks the terminal for its background color through `write`, without waiting.

    Calls `on_answer` with whether the color is light, if the answer arrives within `ANSWER_TIMEOUT_S`."""

    pending: ClassVar[BackgroundQuery | None] = None
    """The query without an answer yet, however old: a process has one terminal."""

    def __init__(self, write: Callable[[str], object], on_answer: Callable[[bool], object]) -> None:
        self._on_answer = on_answer
        self._expires_at = time.monotonic() + ANSWER_TIMEOUT_S
        BackgroundQuery.pending = self
        write(BACKGROUND_REQUEST)

    def answer(self, color: str) -> None:
        """Handle the terminal's answer; `color` may be any text. Called in the thread that reads input."""
        BackgroundQuery.pending = None
        parts = COLOR.fullmatch(color)
        if parts is not None and time.monotonic() < self._expires_at:
            red, green, blue = (
                int(part, 16) / (16 ** len(part) - 1) for part in parts.groups()[:3]
            )
            self._on_answer(is_light_color(red, green, blue))

    def drop(self) -> None:
        """Stop waiting for the answer."""
        if BackgroundQuery.pending is self:
            BackgroundQuery.pending = None


class PasteSafeDecoder:
    """Incremental decoder of terminal input that makes pasted escapes harmless and removes answers."""

    def __init__(self, encoding: str) -> None:
        self._decode = getincrementaldecoder(encoding)("replace").decode
        self._is_in_paste = False
        self._typed_tail = ""  # last characters outside a paste: a start marker may be split
        self._pending = ""  # held back: a possible start of a paste's end marker, or of an answer
        self._ends_in_escape = False  # whether the last returned text did

    def decode(self, data: bytes, final: bool = False) -> str:
        """Return the decoded text. Pasted text contains no escape."""
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
        """Return `typed` without the terminal's answers. While an answer is due, a possible start of one is
        held back."""
        query = BackgroundQuery.pending
        if self._ends_in_escape and typed.startswith("]") and query is not None:
            # The escape was returned already, since it might have been the key. Complete it to a key
            # without a binding.
            if found := ANSWER.match("\x1b" + typed):
                query.answer(found[1])
                typed = UNUSED_KEY + typed[found.end() - 1 :]
            elif PARTIAL_ANSWER.match("\x1b" + typed):
                self._pending = typed
                return ""
        for found in ANSWER.finditer(typed):
            if query is not None:
                query.answer(found[1])
        typed = ANSWER.sub("", typed)
        if query is not None and (begun := PARTIAL_ANSWER.search(typed)):
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
    """Stand-in for `codecs.getincrementaldecoder` in Textual's driver."""
    terminal = _wrapped_stderr()
    return partial(PasteSafeDecoder, terminal.encoding if terminal is not None else encoding)


def install_paste_safe_decoder() -> None:
    """Make Textual's Unix driver decode input with `PasteSafeDecoder`."""
    with suppress(ImportError):  # Windows has another driver, which reads text
        vars(importlib.import_module(DRIVER))["getincrementaldecoder"] = _decoder_factory


class HangupSafeStream(TextIOBase):
    """A text stream over the terminal behind `stream` that drops output once the terminal is gone.

    It uses only the stream's file descriptor: a thread that waits for a terminal must not hold the lock of
    a Python stream. `in_ascii` replaces every other character."""

    def __init__(self, stream: TextIO | TextIOBase, *, in_ascii: bool = False) -> None:
        self._ascii_table = _AsciiTable() if in_ascii else None
        self._stream = stream  # keeps the file descriptor open
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
    def is_ascii(self) -> bool:
        """Whether every other character is replaced."""
        return self._ascii_table is not None

    @property
    def encoding(self) -> str:  # type: ignore[override]  # it is read-only at run time
        return self._encoding

    def write(self, text: str) -> int:
        if text == POP_TITLE and not self._is_title_pushed:
            return len(text)  # restored already: a second pop would restore another program's title
        if self._ascii_table is None:
            data = text.encode(self._encoding, "backslashreplace")
        else:
            data = text.translate(self._ascii_table).encode("ascii")
        if self._writer.queued_bytes + len(data) > MAX_QUEUED_BYTES:
            self._writer.retain(_mode_sequences)
            self._has_dropped_frames = True
        self._writer.put(data)
        if PUSH_TITLE in text or POP_TITLE in text:
            self._is_title_pushed = text.rfind(PUSH_TITLE) > text.rfind(POP_TITLE)
        return len(text)

    def flush(self) -> None:
        """Wait until everything is written, at most `FLUSH_TIMEOUT_S`; not at all once stalled."""
        is_written = self._writer.flush(0.0 if self._is_stalled else FLUSH_TIMEOUT_S)
        self._is_stalled = not is_written

    def consume_dropped_frames(self) -> bool:
        """Return True once after frames were dropped and the terminal reads again: the screen then needs a
        full repaint."""
        if not self._has_dropped_frames or not self._writer.is_idle:
            return False
        self._has_dropped_frames = False
        return True

    def restore(self) -> None:
        """Restore the terminal's attributes, modes and title."""
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
    """Return the pieces that only change modes, each once: no later frame repeats them."""
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
    """Restore this process's terminal to its state at the start."""
    if (terminal := _wrapped_stderr()) is not None:
        terminal.restore()


def consume_repaint_request() -> bool:
    """Return whether this process's terminal needs a full repaint; True once each time."""
    terminal = _wrapped_stderr()
    return terminal is not None and terminal.consume_dropped_frames()
