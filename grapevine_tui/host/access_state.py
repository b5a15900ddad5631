"""What a user may do with the keyed state: the command, and the argument of `HostView.state`.

Invariants: the fields besides `payload` are those of the JSON command ``state``.
"""

from __future__ import annotations

from typing import Final, NamedTuple

STATE_ACTIONS: Final = ("list", "get", "set", "del", "watch")


class AccessState(NamedTuple):
    """Read, watch or change the keyed state: `action` is one of `STATE_ACTIONS`. `key` is a prefix for
    ``list`` and ``watch``. ``list`` returns one page of keys, those after the key `after`."""

    action: str = "list"
    key: str = ""
    payload: bytes = b""
    ttl_s: int | None = None
    durable: bool = False
    after: str = ""
