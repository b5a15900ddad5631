"""What somebody chose on the screen and finds again at the next start: the theme.

What must stay true:

- It is a person's choice, not a node's setting: one file for all nodes of one user, never the settings
  file, which only ctrl+s in the settings screen writes.
- A file that is missing, damaged or cannot be written is no reason to stop.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Final

from grapevine_proto.files import PRIVATE, make_private_directory, put_in_place

MOST_BYTES: Final = 4_096
MOST_CHARACTERS: Final = 64


class Choices:
    """Kept in `path`; None: kept nowhere."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @property
    def is_kept(self) -> bool:
        return self._path is not None

    def theme(self) -> str:
        """The theme chosen last; empty: none."""
        if self._path is None:
            return ""
        with contextlib.suppress(OSError, ValueError, RecursionError):
            with self._path.open("rb") as file:
                found = json.loads(file.read(MOST_BYTES))
            theme = found.get("theme", "") if isinstance(found, dict) else ""
            return theme[:MOST_CHARACTERS] if isinstance(theme, str) else ""
        return ""

    def keep_theme(self, name: str) -> None:
        """Find `name` again at the next start. Raises OSError."""
        if self._path is None:
            return
        make_private_directory(self._path.parent)
        put_in_place(self._path, json.dumps({"theme": name}).encode() + b"\n", mode=PRIVATE)
