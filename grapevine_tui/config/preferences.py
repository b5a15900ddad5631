"""What a user chose on the screen and gets again at the next start: the theme, and the boxes of the main
screen.

Invariants:

- It belongs to the user, not to a node: one file for all nodes of the user, separate from the
  config file, which only ctrl+s in the settings screen writes.
- A file that is missing, damaged or not writable never stops the app.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Final

from grapevine_proto.storage.atomic_file import PRIVATE_MODE, atomic_write, make_private_directory

MAX_FILE_BYTES: Final = 4_096
MAX_WORD_CHARACTERS: Final = 64
MAX_BOXES: Final = 16


class Preferences:
    """Preferences stored at `path`; with None, they are not stored."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @property
    def is_persistent(self) -> bool:
        return self._path is not None

    def load_theme(self) -> str:
        """Theme chosen last; empty if none."""
        return _word(self._load().get("theme"))

    def save_theme(self, name: str) -> None:
        """Remember the theme `name`. Raises OSError."""
        self._save({"theme": name})

    def load_layout(self) -> tuple[str, frozenset[str]]:
        """(Preset of the main screen, boxes that are on), as they were chosen; empty if none was."""
        saved = self._load()
        boxes = saved.get("boxes")
        words = boxes[:MAX_BOXES] if isinstance(boxes, list) else []
        return _word(saved.get("layout")), frozenset(filter(None, map(_word, words)))

    def save_layout(self, preset: str, boxes: frozenset[str]) -> None:
        """Remember a preset and the boxes that are on. Raises OSError."""
        self._save({"layout": preset, "boxes": sorted(boxes)})

    def _load(self) -> dict[str, Any]:
        if self._path is not None:
            with contextlib.suppress(OSError, ValueError, RecursionError):
                with self._path.open("rb") as file:
                    saved = json.loads(file.read(MAX_FILE_BYTES))
                return saved if isinstance(saved, dict) else {}
        return {}

    def _save(self, changes: dict[str, Any]) -> None:
        if self._path is None:
            return
        text = json.dumps(self._load() | changes)
        make_private_directory(self._path.parent)
        atomic_write(self._path, text.encode() + b"\n", mode=PRIVATE_MODE)


def _word(value: Any) -> str:
    return value[:MAX_WORD_CHARACTERS] if isinstance(value, str) else ""
