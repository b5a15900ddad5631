"""Times as people write them: how long ago, a time of day, a date.

Invariants: pure; `now` and the local time zone are the only inputs besides the text.
"""

from __future__ import annotations

import math
import re
import time
from datetime import datetime, timedelta
from typing import Final

SECONDS_BY_UNIT: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
EXPECTED: Final = "a time such as 90s, 1h30m, 2d, 19:05, yesterday, 2026-01-03 or 2026-01-03T19:05"
_AGE: Final = re.compile(r"(?:\d+(?:\.\d+)?[smhdw])+", re.ASCII)
_AGE_PART: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw])", re.ASCII)
_CLOCK: Final = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?", re.ASCII)
_MAX_AGE_S: Final = 100 * 366 * 86_400


def parse_time(text: str, now: float | None = None) -> float:
    """Return the time that `text` names, in Unix seconds.

    An age counts back from `now` (None: the clock). A time of day is the latest one that is not in the
    future. A date alone is its first second. Times are local unless they end in Z. Raises ValueError with
    what was expected.
    """
    now = time.time() if now is None else now
    word = text.strip().lower()
    if _AGE.fullmatch(word):
        age_s = math.fsum(
            float(number) * SECONDS_BY_UNIT[unit] for number, unit in _AGE_PART.findall(word)
        )
        if age_s <= _MAX_AGE_S:
            return now - age_s
    elif word == "now":
        return now
    elif found := _CLOCK.fullmatch(word):
        return _latest_clock_time(now, *(int(each or 0) for each in found.groups()))
    elif word.startswith(("today", "yesterday")):
        return _relative_day(word, now)
    else:
        return _date(text.strip())
    raise ValueError(EXPECTED)


def _latest_clock_time(now: float, hour: int, minute: int, second: int) -> float:
    today = datetime.fromtimestamp(now)  # noqa: DTZ006  local times are what people type
    try:
        found = today.replace(hour=hour, minute=minute, second=second, microsecond=0)
    except ValueError:
        raise ValueError(EXPECTED) from None
    if found > today:
        found -= timedelta(days=1)
    return found.timestamp()


def _relative_day(word: str, now: float) -> float:
    """The start of today or yesterday, or a time of that day: ``yesterday 03:10``, ``yesterday@03:10``."""
    name = "yesterday" if word.startswith("yesterday") else "today"
    clock = word.removeprefix(name).lstrip(" @t-")
    day = datetime.fromtimestamp(now).replace(hour=0, minute=0, second=0, microsecond=0)  # noqa: DTZ006
    day -= timedelta(days=name == "yesterday")
    if not clock:
        return day.timestamp()
    found = _CLOCK.fullmatch(clock)
    if found is None:
        raise ValueError(EXPECTED)
    hour, minute, second = (int(each or 0) for each in found.groups())
    try:
        return day.replace(hour=hour, minute=minute, second=second).timestamp()
    except ValueError:
        raise ValueError(EXPECTED) from None


def _date(text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(EXPECTED) from None
    if not 1970 < found.year < 9999:  # beyond it, time zones may overflow
        raise ValueError(EXPECTED)
    return found.timestamp()


def format_time(at_unix: float) -> str:
    """`at_unix` as local date and time to the second; a dash if the calendar has no such time."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_unix))
    except (OverflowError, OSError, ValueError):
        return "-"
