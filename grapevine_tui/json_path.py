"""Fields of payloads that are JSON, named by a path: ``user.name``, ``items.0.id``.

Invariants: reading one never fails and is bounded work, whatever a remote node sent.
"""

from __future__ import annotations

import json
from typing import Any, Final

MAX_PAYLOAD_BYTES: Final = 16 * 1024  # a longer payload has no fields
MAX_PARTS: Final = 8


def path_fault(path: str) -> str:
    """Say what is wrong with `path`; empty if nothing is."""
    parts = path.split(".")
    if not all(parts) or len(parts) > MAX_PARTS or any(each.isspace() for each in path):
        return f"expected up to {MAX_PARTS} names with dots between them, such as user.name"
    return ""


def parse_payload(payload: bytes) -> Any:
    """The object or list that `payload` is; None if it is none."""
    if len(payload) > MAX_PAYLOAD_BYTES or payload[:1] not in (b"{", b"["):
        return None
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return None


def find_field(value: Any, path: str) -> Any:
    """The field of `value` at `path`; None if it has none."""
    for part in path.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part[:9]) < len(value):
            value = value[int(part[:9])]
        else:
            return None
    return value


def format_field(value: Any) -> str:
    """A field in one line, as JSON has it, but text without quotes. Unescaped; empty for none."""
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        return "…"
