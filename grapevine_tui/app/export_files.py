"""Files that the app writes for its user: messages as JSON Lines, screenshots as SVG, reports.

Invariants:

- An export never overwrites a file, and only its owner can read it.
- It is written to the first writable directory given, and removed if writing fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from grapevine_proto.ids import PeerId
from grapevine_tui.control.jsonlines import named_message
from grapevine_tui.host.message_buffer import LogEntry

MAX_NAME_ATTEMPTS: Final = 100  # numbered names tried in one directory


def create_unique(stem: str, suffix: str, directories: Iterable[Path]) -> tuple[Path, BinaryIO]:
    """Create a file named after the local time in the first writable one of `directories`.

    Returns its path and the open file. Raises OSError if no directory is writable."""
    timestamp = time.strftime("%Y%m%d-%H%M%S")
    last_error = OSError("there is no directory to write to")
    for directory in directories:
        for number in range(1, MAX_NAME_ATTEMPTS):
            counter = f"-{number}" if number > 1 else ""
            path = directory / f"{stem}-{timestamp}{counter}{suffix}"
            try:
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                continue
            except OSError as error:
                last_error = error
                break
            return path, os.fdopen(fd, "wb")
    raise last_error


@contextlib.contextmanager
def remove_on_error(path: Path) -> Iterator[None]:
    """Remove the new file at `path` if the block fails, so that a full disk leaves no partial file."""
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_messages(
    entries: Iterable[LogEntry], name_of: Callable[[PeerId], str], directories: Iterable[Path]
) -> tuple[Path, int]:
    """Write messages in the headless node's JSON format; return the path and the count. Raises OSError."""
    path, file = create_unique("messages", ".jsonl", directories)
    count = 0
    with remove_on_error(path), file:
        for entry in entries:
            time_text = datetime.fromtimestamp(entry.at_unix, UTC).isoformat(
                timespec="milliseconds"
            )
            record = {
                "event": "message",
                "time": time_text.removesuffix("+00:00") + "Z",
                **named_message(entry.message, name_of),
            }
            line = json.dumps(record, allow_nan=False, separators=(",", ":"))
            file.write(line.encode("ascii") + b"\n")
            count += 1
    return path, count


def write_text(stem: str, suffix: str, text: str, directories: Iterable[Path]) -> Path:
    """Write `text`, such as a screenshot in SVG; return its path. Raises OSError."""
    path, file = create_unique(stem, suffix, directories)
    with remove_on_error(path), file:
        file.write(text.encode())
    return path
