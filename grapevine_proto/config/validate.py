"""Validation of settings and of arguments to `Node`.

Invariants:

- A check of a setting raises `ConfigError` with the dotted name of the setting and the valid values. It
  changes no value.
- A check of an argument raises `InvalidArgument`, before anything is queued, numbered or sent.
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias

from grapevine_proto.errors import ConfigError, InvalidArgument
from grapevine_proto.ids import check_host, split_host_port

BytesLike: TypeAlias = bytes | bytearray | memoryview
"""Accepted as a payload. Any other object with a buffer works too, but has no type before Python 3.12."""

MAX_TEXT_BYTES: Final = 64  # of a name, a zone or a cluster name, as in a PeerRecord


def check_number(name: str, value: float, low: float, high: float) -> None:
    """Raises ConfigError unless `value` is a finite number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(name, f"expected a number, not {value!r}")
    if not math.isfinite(value) or not low <= value <= high:
        raise ConfigError(name, f"must be between {low:g} and {high:g}, got {value!r}")


def check_integer(name: str, value: int, low: int, high: int) -> None:
    """Raises ConfigError unless `value` is an integer from `low` to `high`."""
    if type(value) is not int:
        raise ConfigError(name, f"expected a whole number, not {value!r}")
    check_number(name, value, low, high)


def check_flag(name: str, value: bool) -> None:
    """Raises ConfigError unless `value` is a bool."""
    if type(value) is not bool:
        raise ConfigError(name, f"expected true or false, not {value!r}")


def check_text(name: str, value: str) -> None:
    """Raises ConfigError unless `value` is valid Unicode of at most `MAX_TEXT_BYTES` bytes."""
    if not isinstance(value, str):
        raise ConfigError(name, f"expected text, not {value!r}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:  # a lone surrogate, from a non-UTF-8 environment
        raise ConfigError(name, f"{value!r} is not valid Unicode") from None
    if size > MAX_TEXT_BYTES:
        raise ConfigError(name, f"must be at most {MAX_TEXT_BYTES} bytes, got {value!r}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ConfigError unless `value` is one of `choices`."""
    if value not in choices:
        raise ConfigError(name, f"must be one of {', '.join(choices)}; got {value!r}")


def check_host_port(name: str, value: str, *, is_dialed: bool = False) -> None:
    """Raises ConfigError unless `value` is ``host:port``. `is_dialed`: the address is dialed, not listened
    on, so port 0 and an impossible host name are invalid too."""
    if not isinstance(value, str):
        raise ConfigError(name, f"expected host:port, not {value!r}")
    try:
        host, port = split_host_port(value)
        if is_dialed:
            check_host(host)
    except ValueError as error:
        raise ConfigError(name, str(error)) from None
    if is_dialed and port == 0:
        raise ConfigError(name, f"port 0 cannot be dialed, got {value!r}")


def payload_bytes(payload: object) -> bytes:
    """Returns `payload` as immutable bytes. A bytes-like object is copied, so the caller may reuse its
    buffer. Raises InvalidArgument for anything else, text included."""
    if type(payload) is bytes:
        return payload
    if isinstance(payload, str):
        raise InvalidArgument("payload: expected bytes, not str; encode the text first")
    try:
        with memoryview(payload) as view:  # type: ignore[arg-type]
            return view.tobytes()
    except TypeError:
        raise InvalidArgument(f"payload: expected bytes, not {type(payload).__name__}") from None


def check_callable(name: str, value: object) -> None:
    """Raises InvalidArgument unless `value` can be called."""
    if not callable(value):
        raise InvalidArgument(f"{name}: expected a function, not {type(value).__name__}")


def check_seconds(name: str, value: object) -> None:
    """Raises InvalidArgument unless `value` is a number of seconds of at least 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidArgument(f"{name}: expected seconds, not {type(value).__name__}")
    if not value >= 0:  # rejects NaN too
        raise InvalidArgument(f"{name}: expected at least 0 seconds, not {value!r}")
