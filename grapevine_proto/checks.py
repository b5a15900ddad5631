"""Checks of single settings.

What must stay true: each raises `ConfigError` that names the setting by its dotted path and says what would
do, and none changes a value.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.errors import ConfigError
from grapevine_proto.ids import split_host_port

MAX_TEXT_BYTES: Final = 64  # of a name, a zone, a cluster: what a record carries


def check_number(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(name, f"expected a number, not {value!r}")
    if not math.isfinite(value) or not low <= value <= high:
        raise ConfigError(name, f"{value!r} is not between {low:g} and {high:g}")


def check_count(name: str, value: int, low: int, high: int) -> None:
    if type(value) is not int:
        raise ConfigError(name, f"expected a whole number, not {value!r}")
    check_number(name, value, low, high)


def check_flag(name: str, value: bool) -> None:
    if type(value) is not bool:
        raise ConfigError(name, f"expected true or false, not {value!r}")


def check_text(name: str, value: str) -> None:
    if not isinstance(value, str):
        raise ConfigError(name, f"expected text, not {value!r}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:  # half a surrogate pair, as an environment that is not UTF-8 gives
        raise ConfigError(name, f"{value!r} is not valid Unicode") from None
    if size > MAX_TEXT_BYTES:
        raise ConfigError(name, f"{value!r} is longer than {MAX_TEXT_BYTES} bytes")


def check_word(name: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise ConfigError(name, f"{value!r} is not one of: {', '.join(words)}")


def check_host_port(name: str, value: str) -> None:
    if not isinstance(value, str):
        raise ConfigError(name, f"expected host:port, not {value!r}")
    try:
        split_host_port(value)
    except ValueError as error:
        raise ConfigError(name, str(error)) from None
