"""What a user may do with the keyed state: the command, and the argument of `HostView.state`.

Invariants: the fields besides `payload` are those of the JSON command ``state``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

STATE_ACTIONS: Final = ("list", "get", "set", "del", "watch")


@dataclass(frozen=True, slots=True)
class AccessState:
    """Read, watch or change the keyed state: `action` is one of `STATE_ACTIONS`. `key` is a prefix for
    ``list`` and ``watch``. ``list`` returns one page of keys, those after the key `after`."""

    action: str = "list"
    key: str = ""
    payload: bytes = b""
    ttl_s: int | None = None
    durable: bool = False
    after: str = ""
