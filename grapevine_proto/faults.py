"""What to say of an error of this program that was contained: one line, without a traceback."""

from __future__ import annotations

import traceback
from typing import Final

FRAMES_SHOWN: Final = 4  # the innermost: enough to find the line, and short enough for a screen
PROBLEM_CHARS: Final = 400  # an error may quote what a peer sent


def describe(error: BaseException) -> str:
    """The error, what it says of itself, and where it was raised, the innermost frame first."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES_SHOWN:]
    where = " < ".join(
        f"{frame.name} ({frame.filename.rpartition('/')[2]}:{frame.lineno})"
        for frame in reversed(frames)
    )
    said = " ".join(str(error).split())[:PROBLEM_CHARS]
    return (
        f"{type(error).__name__}: {said} in {where}" if where else f"{type(error).__name__}: {said}"
    )
