"""What the app puts into files for its user: messages as JSON Lines, pictures of the screen.

What must stay true:

- A file is new, never one that was there; only its owner can read it.
- It stands where the user works; where that cannot be written, in the node's own state directory.
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
from grapevine_tui.control.jsonlines import message_to_json
from grapevine_tui.host.message_buffer import LogEntry

MAX_NAME_ATTEMPTS: Final = 100  # names tried for one that is not taken


def create_unique(stem: str, suffix: str, directories: Iterable[Path]) -> tuple[Path, BinaryIO]:
    """A new file named after the time of day in the first of `directories` that can be written.
    Raises OSError where none can."""
    timestamp = time.strftime("%Y%m%d-%H%M%S")
    last_error = OSError("there is no folder to write to")
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
    """Take the new file at `path` away where writing it fails: a full disk leaves no half of it."""
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_messages(
    entries: Iterable[LogEntry], name_of: Callable[[PeerId], str], directories: Iterable[Path]
) -> tuple[Path, int]:
    """Write messages in the words of the headless node; where they are, and how many. Raises OSError."""
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
                **message_to_json(entry.message, name_of),
            }
            line = json.dumps(record, allow_nan=False, separators=(",", ":"))
            file.write(line.encode("ascii") + b"\n")
            count += 1
    return path, count


def write_screenshot(svg: str, directories: Iterable[Path]) -> Path:
    """Write a picture of the screen; where it is. Raises OSError."""
    path, file = create_unique("grapevine", ".svg", directories)
    with remove_on_error(path), file:
        file.write(svg.encode())
    return path
