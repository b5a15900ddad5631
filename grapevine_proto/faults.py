"""What to say of an error of this program that was contained: one line, without a traceback."""

from __future__ import annotations

import traceback
from typing import Final

MAX_FRAMES: Final = 4  # the innermost: enough to find the line, and short enough for a screen
MAX_MESSAGE_CHARS: Final = 400  # an error may quote what a peer sent


def format_error(error: BaseException) -> str:
    """The error, what it says of itself, and where it was raised, the innermost frame first."""
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
