"""Checks of single settings, and of what a program passes to a node.

Invariants:

- A check of a setting raises `ConfigError`, which names the setting by its dotted path and says what
  is valid; it changes no value.
- A check of an argument raises `InvalidArgument` before anything is queued, numbered or sent.
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias

from grapevine_proto.errors import ConfigError, InvalidArgument
from grapevine_proto.ids import check_host, split_host_port

BytesLike: TypeAlias = bytes | bytearray | memoryview
"""What is taken for a payload; anything else with a buffer works too, but has no type until 3.12."""

MAX_TEXT_BYTES: Final = 64  # of a name, a zone, a cluster: what a record carries


def check_number(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(name, f"expected a number, not {value!r}")
    if not math.isfinite(value) or not low <= value <= high:
        raise ConfigError(name, f"{value!r} is not between {low:g} and {high:g}")


def check_integer(name: str, value: int, low: int, high: int) -> None:
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


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(name, f"{value!r} is not one of: {', '.join(choices)}")


def check_host_port(name: str, value: str, *, is_dialed: bool = False) -> None:
    """`is_dialed`: it is not for listening at, so its port is not 0, and its host a possible one."""
    if not isinstance(value, str):
        raise ConfigError(name, f"expected host:port, not {value!r}")
    try:
        host, port = split_host_port(value)
        if is_dialed:
            check_host(host)
    except ValueError as error:
        raise ConfigError(name, str(error)) from None
    if is_dialed and port == 0:
        raise ConfigError(name, f"{value!r}: port 0 cannot be dialled")


def payload_bytes(payload: object) -> bytes:
    """`payload` as bytes that nobody else can change: a bytes-like object is copied, so that the caller
    may reuse its buffer. Raises InvalidArgument for anything else, text included."""
    if type(payload) is bytes:
        return payload
    if isinstance(payload, str):
        raise InvalidArgument("a payload is bytes, not str: pass text.encode()")
    try:
        with memoryview(payload) as view:  # type: ignore[arg-type]
            return view.tobytes()
    except TypeError:
        raise InvalidArgument(f"a payload is bytes, not {type(payload).__name__}") from None


def check_callable(name: str, value: object) -> None:
    """Raises InvalidArgument unless `value` can be called."""
    if not callable(value):
        raise InvalidArgument(f"{name}: expected a function, not {type(value).__name__}")


def check_seconds(name: str, value: object) -> None:
    """Raises InvalidArgument unless `value` is a number of seconds of at least 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidArgument(f"{name}: expected seconds, not {type(value).__name__}")
    if not value >= 0:  # nor is NaN
        raise InvalidArgument(f"{name}: expected at least 0 seconds, not {value!r}")
