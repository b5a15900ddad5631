"""The history of a node, played back like a recording: its samples show the tables, its messages the log.

Invariants:

- Between two samples, ten seconds apart, tables stand still; messages come when they came.
- Reading changes nothing, also while a node writes the file; what it adds later is not shown.
- Going to a time reads one full sample, those after it, and the latest `MAX_MESSAGES` messages.

Blocks: open it in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from pathlib import Path
from typing import Final

from grapevine_tui.history.database import HistoryUnavailable, open_for_reading, unavailable
from grapevine_tui.history.records import MICROSECONDS, StoredMessage, to_key
from grapevine_tui.history.samples import unpack_sample
from grapevine_tui.history.search import messages_between
from grapevine_tui.remote.recording import EVENT, MESSAGE_WINDOW_S, Frame

MAX_MESSAGES: Final = 2_000  # before the time shown
PAGE_ROWS: Final = 500


class HistoryTape:
    """The history at `path`. Raises HistoryUnavailable if it cannot be read or has no samples."""

    def __init__(self, path: Path) -> None:
        import sqlite3

        self.path = path
        self.problem = ""
        self._connection = open_for_reading(path)
        try:
            first, last = self._connection.execute(
                "SELECT min(key), max(key) FROM samples WHERE key >="
                " (SELECT min(key) FROM samples WHERE is_full)"
            ).fetchone()
        except sqlite3.OperationalError:  # of a build without samples
            first = last = None
        except sqlite3.Error as error:
            self._connection.close()
            raise unavailable(error) from None
        if first is None:
            self._connection.close()
            raise HistoryUnavailable(
                f"{path.parent} has no samples of the screens; a node keeps one every 10 s"
            )
        self._last_key: int = last
        self.start, self.end = first / MICROSECONDS, last / MICROSECONDS

    def close(self) -> None:
        self._connection.close()

    def until(self, at: float) -> Iterator[tuple[Frame, int]]:
        """What shows that time, each with the offset from where `read` goes on."""
        key = to_key(at)
        window = messages_between(
            self._connection,
            key - int(MESSAGE_WINDOW_S * MICROSECONDS),
            key,
            MAX_MESSAGES,
            newest=True,
        )
        for message in window:
            yield _message_frame(message), key + 1
        (full,) = self._connection.execute(
            "SELECT max(key) FROM samples WHERE is_full AND key <= ?", (key,)
        ).fetchone()
        for frame, _ in self._samples(full or 0, key):
            yield frame, key + 1

    def read(self, offset: int) -> Iterator[tuple[Frame, int]]:
        """The frames from there on, each with the offset of the next."""
        return merge(
            self._messages(offset), self._samples(offset, self._last_key), key=lambda each: each[1]
        )

    def _messages(self, offset: int) -> Iterator[tuple[Frame, int]]:
        while True:
            page = messages_between(self._connection, offset, self._last_key, PAGE_ROWS)
            for message in page:
                offset = message.key + 1
                yield _message_frame(message), offset
            if len(page) < PAGE_ROWS:
                return

    def _samples(self, first_key: int, last_key: int) -> Iterator[tuple[Frame, int]]:
        rows = self._connection.execute(
            "SELECT key, body FROM samples WHERE key BETWEEN ? AND ? ORDER BY key",
            (first_key, last_key),
        )
        for key, body in rows:
            for kind, fields in unpack_sample(body):
                yield Frame(key / MICROSECONDS, kind, fields), key + 1


def _message_frame(message: StoredMessage) -> Frame:
    return Frame(message.at_unix, EVENT, {"event": "message", **message.to_dict()})
