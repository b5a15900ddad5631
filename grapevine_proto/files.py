"""Files put in place whole or not at all.

What must stay true:

- Whatever moment the process or the machine dies at, the file is there as it was before or after, never
  between: written aside, flushed, then put in place, and the folder flushed behind it.
- At no moment can anybody read it who could not read it in the end.
- Two writers at once do not mix: each writes aside under a name of its own, and the later one wins.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Final

ASIDE: Final = ".new"  # ends the name of what is written aside


def put_in_place(path: str | Path, data: bytes, *, mode: int, keeps_mode: bool = True) -> None:
    """Make `data` the content of `path`, or of what `path` is a link to. Raises OSError; then the file is
    as it was.

    A new file gets `mode`, less what the umask takes; one that is there keeps its own unless told
    otherwise.
    """
    path = Path(os.path.realpath(path))
    kept = None
    if keeps_mode:
        with contextlib.suppress(FileNotFoundError):
            kept = path.stat().st_mode & 0o777
    aside = path.with_name(f".{path.name}.{os.getpid()}{ASIDE}")
    aside.unlink(missing_ok=True)  # left by a run that died here; its mode may not be ours
    try:
        _write(aside, data, mode if kept is None else mode & kept, kept)
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def sweep(folder: Path) -> None:
    """Take away what dead runs left aside in `folder`, where nobody else writes now. Raises OSError."""
    for left in folder.glob(f".*{ASIDE}"):
        left.unlink(missing_ok=True)


def _write(aside: Path, data: bytes, mode: int, final_mode: int | None) -> None:
    file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        if final_mode is not None and sys.platform != "win32":
            os.fchmod(file, final_mode)
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
        os.fsync(file)
    finally:
        os.close(file)


def _sync_folder(path: Path) -> None:
    """Make a replacement in `path` last; where the system has no such call, the rename must do."""
    if sys.platform == "win32":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
