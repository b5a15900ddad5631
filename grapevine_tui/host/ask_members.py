"""What a user may ask for by a query: the command, and the argument of `HostView.query`.

Invariants: the fields besides `payload` are those of the JSON command ``query``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class AskMembers(NamedTuple):
    """Ask all members, or those of a zone or with `tags`, the query `name` with `payload`, and gather the
    answers. The numbers are as in `Node.query`."""

    name: str
    payload: bytes = b""
    zone: str | None = None
    tags: Mapping[str, str] | None = None
    limit: int | None = None
    sample: int | None = None
    timeout_s: int | None = None
    nearest: int | None = None
