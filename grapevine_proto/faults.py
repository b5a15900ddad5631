"""Formats a contained internal error as one line, without a traceback."""

from __future__ import annotations

import traceback
from typing import Final

MAX_FRAMES: Final = 4  # innermost: locates the line and fits a screen
MAX_MESSAGE_CHARS: Final = 400  # an error may quote data from a peer


def format_error(error: BaseException) -> str:
    """Returns the type, message and location of `error`, innermost frame first."""
    frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    location = " < ".join(
        f"{frame.name} ({frame.filename.rpartition('/')[2]}:{frame.lineno})"
        for frame in reversed(frames)
    )
    message = " ".join(str(error).split())[:MAX_MESSAGE_CHARS]
    return (
        f"{type(error).__name__}: {message} in {location}"
        if location
        else f"{type(error).__name__}: {message}"
    )
