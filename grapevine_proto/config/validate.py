"""Validation of settings and of arguments to `Node`.

Invariants:

- A check of a setting raises `ConfigError` with the dotted name of the setting and the valid values. It
  changes no value.
- A check of an argument raises `InvalidArgument`, before anything is queued, numbered or sent.
"""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any, Final, TypeAlias

from grapevine_proto.errors import ConfigError, InvalidArgument
from grapevine_proto.ids import (
    HOST_NAME_PUNCTUATION,
    check_host,
    join_host_port,
    split_host_port,
    split_host_ports,
)

BytesLike: TypeAlias = bytes | bytearray | memoryview
"""Accepted as a payload. Any other object with a buffer works too, but has no type before Python 3.12."""

Seconds: TypeAlias = float | timedelta
"""Accepted as a duration: a number of seconds, or a timedelta."""

HostPort: TypeAlias = str | tuple[str, int]
"""Accepted as an address: ``host:port``, a pair of host and port, or an `Address`."""

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


def is_host_port_pair(value: object) -> bool:
    """Whether `value` is an `Address` or another pair of a host and a port."""
    return isinstance(value, tuple) and len(value) == 2 and type(value[1]) is int


def to_host_port(value: Any) -> Any:
    """Returns a pair of host and port as ``host:port``, anything else unchanged."""
    if is_host_port_pair(value) and isinstance(value[0], str):
        return join_host_port(*value)
    return value


def to_seconds(value: Any) -> Any:
    """Returns a timedelta as seconds, anything else unchanged."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def convert_durations(config: object, names: tuple[str, ...]) -> None:
    """Replaces each timedelta among the fields `names` of a frozen `config` by its seconds."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, timedelta):
            object.__setattr__(config, name, value.total_seconds())


def check_host_port(
    name: str, value: str, *, is_dialed: bool = False, allows_range: bool = False
) -> None:
    """Raises ConfigError unless `value` is ``host:port``. `is_dialed`: the address is dialed, not listened
    on, so port 0 and an impossible host name are invalid too. `allows_range`: ``host:first-last`` is valid
    too."""
    if not isinstance(value, str):
        raise ConfigError(name, f"expected host:port, not {value!r}")
    try:
        if allows_range:
            host, ports = split_host_ports(value)
            port = ports[0]
        else:
            host, port = split_host_port(value)
        if is_dialed:
            check_host(host)
    except ValueError as error:
        raise ConfigError(name, str(error)) from None
    if is_dialed and port == 0:
        raise ConfigError(name, f"port 0 cannot be dialed, got {value!r}")


FILE_PREFIX: Final = "@"
SRV_PREFIX: Final = "srv+"


def is_bootstrap_source(peer: object) -> bool:
    """Whether a bootstrap peer names a source of addresses: ``@FILE`` or ``srv+NAME``."""
    return isinstance(peer, str) and peer.startswith((FILE_PREFIX, SRV_PREFIX))


def check_bootstrap_source(peer: str) -> None:
    """Raises ConfigError unless a file or a DNS name follows the prefix."""
    if peer == FILE_PREFIX:
        raise ConfigError("bootstrap_peers", "expected the name of a file after @")
    if not peer.startswith(SRV_PREFIX):
        return
    name = peer.removeprefix(SRV_PREFIX)
    if not name or not all(each.isalnum() or each in HOST_NAME_PUNCTUATION for each in name):
        raise ConfigError(
            "bootstrap_peers",
            f"expected a DNS name after {SRV_PREFIX}, such as _grapevine._udp.example.org",
        )
    try:
        check_host(name)
    except ValueError as error:
        raise ConfigError("bootstrap_peers", f"{peer!r:.80}: {error}") from None


def check_type(name: str, value: object, expected: type) -> None:
    """Raises InvalidArgument unless the argument `name` of a public method is an instance of `expected`. The
    core relies on types: compiled, it would raise TypeError, and interpreted anything."""
    if not isinstance(value, expected):
        wanted = "text" if expected is str else expected.__name__
        raise InvalidArgument(f"{name}: expected {wanted}, not {type(value).__name__}")


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


def whole_seconds(name: str, value: object) -> int:
    """Returns a duration in seconds, rounded up; 0 for None. Raises InvalidArgument unless it is a positive
    number or a timedelta."""
    if value is None:
        return 0
    value = to_seconds(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InvalidArgument(f"{name}: expected seconds above 0, got {value!r:.40}")
    return math.ceil(value)


def check_callable(name: str, value: object) -> None:
    """Raises InvalidArgument unless `value` can be called."""
    if not callable(value):
        raise InvalidArgument(f"{name}: expected a function, not {type(value).__name__}")


def check_seconds(name: str, value: Seconds) -> float:
    """Returns the argument `value` in seconds. Raises InvalidArgument unless it is at least 0."""
    value = to_seconds(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidArgument(f"{name}: expected seconds, not {type(value).__name__}")
    if not value >= 0:  # rejects NaN too
        raise InvalidArgument(f"{name}: expected at least 0 seconds, not {value!r}")
    return value
