"""Splits the bytes of a JSON Lines stream into lines of bounded length.

Invariants:

- A line that is too long is skipped up to its end; the lines before and after it are kept.
- At most `max_bytes` of an incomplete line are buffered.
"""

from __future__ import annotations

from typing import Final

MAX_LINE_BYTES: Final = 64 * 1024  # of one line of input, without its line end
READ_CHUNK_BYTES: Final = 64 * 1024


class LineSplitter:
    """Splits a stream of bytes into lines. None stands for a line longer than `max_bytes`; blank lines
    count as lines."""

    def __init__(self, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()
        self._is_skipping = False

    @property
    def has_partial_line(self) -> bool:
        """Whether a line has started and has not ended yet."""
        return bool(self._rest) or self._is_skipping

    def feed(self, chunk: bytes) -> list[bytes | None]:
        """Add `chunk`; return the lines it completes, without their line ends."""
        *ended, rest = chunk.split(b"\n")
        lines: list[bytes | None] = []
        for part in ended:
            self._append(part, lines)
            if not self._is_skipping:
                lines.append(bytes(self._rest).removesuffix(b"\r"))
            self._rest.clear()
            self._is_skipping = False
        self._append(rest, lines)
        return lines

    def end(self) -> list[bytes | None]:
        """Return the last line if the input did not end with a newline."""
        rest, self._rest = bytes(self._rest), bytearray()
        return [rest] if rest else []

    def _append(self, part: bytes, lines: list[bytes | None]) -> None:
        if self._is_skipping:
            return
        self._rest += part
        if len(self._rest) > self._max_bytes + self._rest.endswith(b"\r"):
            self._rest.clear()
            self._is_skipping = True
            lines.append(None)
