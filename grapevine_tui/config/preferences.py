"""What a user chose on the screen and gets again at the next start: the theme.

Invariants:

- It belongs to the user, not to a node: one file for all nodes of the user, separate from the
  config file, which only ctrl+s in the settings screen writes.
- A file that is missing, damaged or not writable never stops the app.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Final

from grapevine_proto.storage.atomic_file import PRIVATE_MODE, atomic_write, make_private_directory

MAX_FILE_BYTES: Final = 4_096
MAX_THEME_CHARACTERS: Final = 64


class Preferences:
    """Preferences stored at `path`; with None, they are not stored."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @property
    def is_persistent(self) -> bool:
        return self._path is not None

    def load_theme(self) -> str:
        """Theme chosen last; empty if none."""
        if self._path is None:
            return ""
        with contextlib.suppress(OSError, ValueError, RecursionError):
            with self._path.open("rb") as file:
                saved = json.loads(file.read(MAX_FILE_BYTES))
            theme = saved.get("theme", "") if isinstance(saved, dict) else ""
            return theme[:MAX_THEME_CHARACTERS] if isinstance(theme, str) else ""
        return ""

    def save_theme(self, name: str) -> None:
        """Remember the theme `name`. Raises OSError."""
        if self._path is None:
            return
        make_private_directory(self._path.parent)
        atomic_write(self._path, json.dumps({"theme": name}).encode() + b"\n", mode=PRIVATE_MODE)
