"""The columns of ``[app.columns]``: which ones the tables of peers and members show, in which order, and
which fields of JSON payloads the messages show before their text.

Invariants:

- A name is a column of the app, a field of the JSON, or ``tag.NAME``. Any other is refused by name.
- Importing this module imports no Textual, so that `config check` can use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from grapevine_proto.config.toml import did_you_mean
from grapevine_proto.errors import ConfigError
from grapevine_tui.config.named_entries import check_section
from grapevine_tui.config.own_commands import TAG_PREFIX
from grapevine_tui.json_path import path_fault

SECTION: Final = "app.columns"
MAX_COLUMNS: Final = 24
PEER_DEFAULT: Final = (
    *("state", "peer", "address", "zone", "rtt", "health", "in/s", "tokens", "tags"),
)
PEER_FIELDS: Final = (
    *("peer_id", "name", "health_reason", "rtt_ms", "sent", "received", "allowed", "throttled"),
    *("tokens_capacity", "last_seen_s", "connected_s", "epoch", "queued", "subscribed"),
    *("send_rate", "lost", "datagram_bytes", "score", "standing", "path"),
)
PEER_COLUMNS: Final = (
    *PEER_DEFAULT,
    *("rtt_graph", "jitter", "loss", "repaired", "out/s"),
    *PEER_FIELDS,
)
MEMBER_DEFAULT: Final = (
    *("status", "name", "link", "rtt", "address", "zone", "tags", "started", "id"),
)
MEMBER_FIELDS: Final = ("peer_id", "epoch", "reason", "path")
MEMBER_COLUMNS: Final = (*MEMBER_DEFAULT, *MEMBER_FIELDS)
TABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "peers": PEER_COLUMNS,
    "members": MEMBER_COLUMNS,
    "messages": (),
}
DEFAULTS: Final[Mapping[str, tuple[str, ...]]] = {
    "peers": PEER_DEFAULT,
    "members": MEMBER_DEFAULT,
    "messages": (),
}
JSON_PREFIX: Final = "json:"


def parse_columns(given: Any) -> dict[str, tuple[str, ...]]:
    """The columns of each table, chosen under [app.columns] or the defaults. Raises ConfigError."""
    chosen = dict(DEFAULTS)
    for table, names in check_section(SECTION, given).items():
        location = f"{SECTION}.{table}"
        if table not in TABLES:
            raise ConfigError(location, f"unknown table{did_you_mean(table, TABLES)}")
        is_list = isinstance(names, list) and all(isinstance(each, str) for each in names)
        if not is_list or not 1 <= len(names) <= MAX_COLUMNS:
            problem = f"expected a list of 1 to {MAX_COLUMNS} columns, not {names!r:.80}"
            raise ConfigError(location, problem)
        for name in names:
            if problem := _column_fault(table, name):
                raise ConfigError(location, problem)
            if names.count(name) > 1:
                raise ConfigError(location, f"column {name!r} is listed twice")
        chosen[table] = tuple(names)
    return chosen


def _column_fault(table: str, name: str) -> str:
    """Say why the table has no column `name`; empty if it has."""
    if table == "messages":
        path = name.removeprefix(JSON_PREFIX)
        fault = "columns: json:PATH" if path == name else path_fault(path)
        return f"unknown column {name!r:.80}; {fault}" if fault else ""
    if name in TABLES[table] or (name.startswith(TAG_PREFIX) and name[4:]):
        return ""
    hint = did_you_mean(name, TABLES[table])
    known = hint or f"; columns: {', '.join(TABLES[table])}, tag.NAME"
    return f"unknown column {name!r:.80}{known}"
