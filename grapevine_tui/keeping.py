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
from grapevine_tui.jsonlines import message_object
from grapevine_tui.ring import Entry

TRIES: Final = 100  # names tried for one that is not taken


def create(stem: str, suffix: str, folders: Iterable[Path]) -> tuple[Path, BinaryIO]:
    """A new file named after the time of day in the first of `folders` that can be written.
    Raises OSError where none can."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    problem = OSError("there is no folder to write to")
    for folder in folders:
        for number in range(1, TRIES):
            more = f"-{number}" if number > 1 else ""
            path = folder / f"{stem}-{stamp}{more}{suffix}"
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                continue
            except OSError as error:
                problem = error
                break
            return path, os.fdopen(handle, "wb")
    raise problem


@contextlib.contextmanager
def whole_or_gone(path: Path) -> Iterator[None]:
    """Take the new file at `path` away where writing it fails: a full disk leaves no half of it."""
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_messages(
    entries: Iterable[Entry], name_of: Callable[[PeerId], str], folders: Iterable[Path]
) -> tuple[Path, int]:
    """Write messages in the words of the headless node; where they are, and how many. Raises OSError."""
    path, file = create("messages", ".jsonl", folders)
    count = 0
    with whole_or_gone(path), file:
        for entry in entries:
            at = datetime.fromtimestamp(entry.at_unix, UTC).isoformat(timespec="milliseconds")
            told = {
                "event": "message",
                "time": at.removesuffix("+00:00") + "Z",
                **message_object(entry.message, name_of),
            }
            line = json.dumps(told, allow_nan=False, separators=(",", ":"))
            file.write(line.encode("ascii") + b"\n")
            count += 1
    return path, count


def write_picture(svg: str, folders: Iterable[Path]) -> Path:
    """Write a picture of the screen; where it is. Raises OSError."""
    path, file = create("grapevine", ".svg", folders)
    with whole_or_gone(path), file:
        file.write(svg.encode())
    return path
